"""Questions to vision-language judges, and the scores of their answers."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from srpo_ray.config.served_rewards import PROMPT_FIELD, JudgeRewardConfig
from srpo_ray.rewards.served.chat import Answer, Position, expected_value
from srpo_ray.rewards.served.client import ServerError

VQASCORE = 'Does this figure show "{prompt}"? Please answer yes or no.'
"""Question of VQAScore, arXiv:2404.01291, section 3."""
UNIFIED_REWARD = """You are presented with a generated image and its associated text caption. Your task is to analyze \
the image across multiple dimensions in relation to the caption. Specifically:
Provide overall assessments for the image along the following axes (each rated from 1 to 5):
- Alignment Score: How well the image matches the caption in terms of content.
- Coherence Score: How logically consistent the image is (absence of visual glitches, object distortions, etc.).
- Style Score: How aesthetically appealing the image looks, regardless of caption accuracy.

Output your evaluation using the format below:

Alignment Score (1-5): X
Coherence Score (1-5): Y
Style Score (1-5): Z

Your task is provided as follows:
Text Caption: [{prompt}]"""
"""Prompt for point scores of UnifiedReward 2.0 (MIT), arXiv:2503.05236; the answer has the format in it."""
ASPECTS = ("Alignment Score", "Coherence Score", "Style Score")
DIGITS = {str(digit): float(digit) for digit in range(10)}


@dataclass(frozen=True)
class Template:
    """Question about an image and a prompt, and the score of the answer."""

    text: str
    max_tokens: int
    read: Callable[[Answer], float]

    def question(self, prompt: str) -> str:
        """Insert the prompt."""
        return self.text.replace(PROMPT_FIELD, prompt)


def template_of(config: JudgeRewardConfig) -> Template:
    """Return the template of a judge."""
    least = config.min_probability
    if config.template == "vqascore":
        return Template(VQASCORE, 1, lambda answer: _yes(answer, least))
    if config.template == "unified_reward":
        return Template(UNIFIED_REWARD, 64, lambda answer: unified_score(answer, least))
    return Template(config.rubric or "", 1, lambda answer: expected_value(answer.positions[0], config.ratings, least))


def unified_score(answer: Answer, least: float) -> float:
    """Mean of the three scores of UnifiedReward, each 1 to 5.

    A score such as `3.6` is a sequence of tokens of one digit. Its value is the sum of the mean of each digit under
    the judge's probabilities, given the digits before it.

    Raises:
        ServerError: If the answer lacks a score, or it is outside 1 to 5.
    """
    scores: list[float] = []
    for aspect in ASPECTS:
        score = _number_after(answer, aspect, least)
        if not 1 <= score <= 5:
            raise ServerError(f"expected a {aspect} from 1 to 5, received {score:.3g} in {answer.text!r}")
        scores.append(score)
    return math.fsum(scores) / len(scores)


def tokens_after(answer: Answer, label: str, expected: str) -> list[Position]:
    """Tokens behind a label, without white space; at least one.

    Args:
        answer: Answer of the judge.
        label: Regular expression; its first match counts.
        expected: Form of the answer, for the message.

    Raises:
        ServerError: If the answer lacks the label, or ends with it.
    """
    text, starts = "", []
    for position in answer.positions:
        starts.append(len(text))
        text += position.token
    match = re.search(label, text)
    found = [
        position
        for position, start in zip(answer.positions, starts, strict=True)
        if match and start >= match.end() and position.token.strip()
    ]
    if not found:
        raise ServerError(f"expected {expected!r} in the judge's answer, received {answer.text!r}")
    return found


def _yes(answer: Answer, least: float) -> float:
    position = answer.positions[0]
    expected_value(position, {"yes": 1.0, "no": 0.0}, least)
    return position.of("yes")


def _number_after(answer: Answer, aspect: str, least: float) -> float:
    """Mean of the number behind a label such as `Style Score (1-5): `."""
    digits = tokens_after(answer, rf"{re.escape(aspect)}[^:\n]*:", f"{aspect} (1-5): X")
    # Of the whole part all ratings count, also those that were not generated.
    value = expected_value(digits[0], {digit: DIGITS[digit] for digit in "12345"}, least)
    if not _is_digit(digits[0]) or len(digits) < 2 or digits[1].token != ".":
        return value
    for place, position in enumerate(digits[2:], start=1):
        if not _is_digit(position):
            break
        value += expected_value(position, DIGITS, least) / 10**place
    return min(value, 5.0)


def _is_digit(position: Position) -> bool:
    return position.token.strip() in DIGITS
