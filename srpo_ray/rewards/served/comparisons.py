"""Questions to vision-language judges about two images, and the preferences in their answers."""

from collections.abc import Callable
from dataclasses import dataclass

from srpo_ray.config.served_rewards import PROMPT_FIELD, JudgeRewardConfig
from srpo_ray.rewards.served.chat import Answer, expected_value
from srpo_ray.rewards.served.templates import tokens_after

CHOICE = (
    'You see two images that were generated from the caption "{prompt}". Which of them is better: which one matches'
    " the caption more closely, has fewer flaws and looks more appealing? Answer with 1 if the first image is better,"
    " with 2 if the second image is better, or with 0 if both are equally good. Answer with this digit only."
)
UNIFIED_REWARD_THINK = """Given a caption and two images generated based on this caption, please analyze in detail the \
two provided images. Evaluate them on various dimensions such as semantic consistency (how closely the image content \
aligns with the caption), aesthetics (composition, color usage, artistic expression), authenticity (realism and \
attention to detail), and any other factors you deem relevant. For each evaluation dimension, provide a score between \
1-10 for both images (e.g., Image 1: 8/10, Image 2: 6/10) and provide a concise rationale for the score. Calculate the \
total score for each image by summing all dimension scores. Use a chain-of-thought process to detail your reasoning \
steps, and enclose all your detailed reasoning within <think> and </think> tags. Then, in the <answer> tag, output \
exactly one of the following strings: 'Image 1 is better' or 'Image 2 is better' based on the total scores. No \
additional text is allowed in the <answer> section.

Example output format:
<think>
1. Semantic consistency: Image 1 (9/10) - ...; Image 2 (7/10) - ...
2. Aesthetics: Image 2 (8/10) - ...; Image 1 (8/10) - ...
3. Authenticity: Image 1 (8/10) - ...; Image 2 (5/10) - ...
[Additional dimensions if any]: Image 2 (8/10) - ...; Image 1 (6/10) - ...
Total score:
Image 1: 9+8+8+6=31
Image 2: 7+8+5+8=28
</think>
<answer>Image 1 is better</answer>
**Note: In the example above, scores and the final answer are placeholders meant only to demonstrate the format. Your \
actual evaluation should be based on the quality of two given images.**

Your task is provided as follows:
Text Caption: [{prompt}]"""
"""Prompt for pairs of UnifiedReward-Think (MIT), arXiv:2505.03318; the answer has the format in it."""
PREFERENCES = {"1": 1.0, "2": 0.0, "0": 0.5}
"""Answer to `CHOICE` -> preference for the first image."""
_ANSWER = r"(?s:.*)<answer>\s*Image"
"""End of the last match: the reasoning may mention the tag."""
_THINKING_TOKENS = 2048


@dataclass(frozen=True)
class PairTemplate:
    """Question about two images and a prompt, and the preference for the first image in the answer."""

    text: str
    max_tokens: int
    read: Callable[[Answer], float]

    def question(self, prompt: str) -> str:
        """Insert the prompt."""
        return self.text.replace(PROMPT_FIELD, prompt)


def pair_template_of(config: JudgeRewardConfig) -> PairTemplate:
    """Return the template of a judge that compares pairs."""
    least = config.min_probability
    if config.comparison == "unified_reward_think":
        return PairTemplate(UNIFIED_REWARD_THINK, _THINKING_TOKENS, lambda answer: thought_preference(answer, least))
    text = config.comparison_question or CHOICE
    return PairTemplate(text, 1, lambda answer: expected_value(answer.positions[0], PREFERENCES, least))


def thought_preference(answer: Answer, least: float) -> float:
    """Preference for the first image in an answer that ends with `<answer>Image 1 is better</answer>`.

    The probabilities of the number are used, given the reasoning before it.

    Raises:
        ServerError: If the answer lacks this end, or names another image.
    """
    number = tokens_after(answer, _ANSWER, "<answer>Image 1 is better</answer>")[0]
    return expected_value(number, {"1": 1.0, "2": 0.0}, least)
