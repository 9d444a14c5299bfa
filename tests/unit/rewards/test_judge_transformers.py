"""Judges against a vision-language model of transformers, whose probabilities a second path computes."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from srpo_ray.config.served_rewards import JudgeRewardConfig
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.rewards.models.hpsv3 import patches_of
from srpo_ray.rewards.models.pretrained import CLIP_STATISTICS
from srpo_ray.rewards.query import TextQuery
from srpo_ray.rewards.registry import build_rewards
from srpo_ray.rewards.served.comparisons import CHOICE
from tests.helpers.rewards.http_server import http_server
from tests.helpers.rewards.tiny_vlm import IMAGE, SIZE, TinyVLM, tiny_vlm

PROMPT = "a red cat"
RUBRIC = 'Rate "{prompt}" with 0, 1 or 2.'


@pytest.fixture(scope="module")
def vlm() -> TinyVLM:
    return tiny_vlm()


def images_of(count: int) -> Tensor:
    """Images that 8 bits represent exactly."""
    pixels = torch.randint(0, 256, (count, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(2))
    # Mean levels differ much, so that the answers do.
    return (pixels * torch.linspace(0.2, 1, count)[:, None, None, None]).round() / 255


def probabilities(vlm: TinyVLM, question: str, images: Tensor) -> dict[str, float]:
    """Probability of each token after a question, from one forward pass: no processor, no generation, no server."""
    mean, std = (np.array(values, dtype=np.float32)[:, None, None] for values in CLIP_STATISTICS)
    pixels = torch.from_numpy((images.numpy() - mean) / std)
    each = f"<|vision_start|>{IMAGE * 4}<|vision_end|>"
    text = f"<|im_start|>user\n{each * len(images)}{question}<|im_end|>\n<|im_start|>assistant\n"
    tokenizer: Any = vlm.processor.tokenizer
    tokens = torch.tensor([tokenizer.encode(text)])
    logits = vlm.model(
        input_ids=tokens,
        pixel_values=patches_of(pixels, 14, 2, 2),
        image_grid_thw=torch.tensor([[1, 4, 4]] * len(images)),
        mm_token_type_ids=(tokens == tokenizer.convert_tokens_to_ids(IMAGE)).int(),
    ).logits[0, -1]
    chances = logits.double().softmax(-1).tolist()
    return {token: chances[index] for token, index in tokenizer.get_vocab().items()}


def judge(url: str, **more: Any) -> JudgeRewardConfig:
    options = {"image_size": SIZE, "top_logprobs": 100, "min_probability": 0.05, **more}
    return JudgeRewardConfig(name="judge", url=url, model="tiny", **options)


def test_vqascore_is_the_probability_of_yes_by_the_model_itself(vlm: TinyVLM) -> None:
    images = images_of(3)
    with http_server(vlm.answer) as server:
        (reward,) = build_rewards([judge(server.url)]).values()
        scores = reward.score(images, [TextQuery.plain(PROMPT)] * 3)
    question = f'Does this figure show "{PROMPT}"? Please answer yes or no.'
    found = [probabilities(vlm, question, image[None]) for image in images]
    assert scores.tolist() == pytest.approx([each["yes"] + each["Yes"] for each in found], rel=1e-4)
    assert scores.std() > 1e-3, "the model sees the images"


def test_rating_is_the_mean_under_the_probabilities_of_the_model_itself(vlm: TinyVLM) -> None:
    images = images_of(2)
    values = {"0": 0.0, "1": 1.0, "2": 2.0}
    with http_server(vlm.answer) as server:
        config = judge(server.url, template="rubric", rubric=RUBRIC, ratings=values)
        (reward,) = build_rewards([config]).values()
        scores = reward.score(images, [TextQuery.plain(PROMPT)] * 2)
    for score, image in zip(scores.tolist(), images, strict=True):
        found = probabilities(vlm, RUBRIC.replace("{prompt}", PROMPT), image[None])
        total = sum(found[word] for word in values)
        assert score == pytest.approx(sum(found[word] * value for word, value in values.items()) / total, rel=1e-4)


def test_comparison_is_the_mean_of_both_orders_by_the_model_itself(vlm: TinyVLM) -> None:
    images, pairs = images_of(3), [(0, 1), (0, 2), (2, 1)]
    with http_server(vlm.answer) as server:
        rewards = LocalRewards.load([judge(server.url, comparison="choice")])
        wins = rewards.compare(images, [TextQuery.plain(PROMPT)] * 3, pairs).result()["judge"].tolist()

    def preference(first: int, second: int) -> float:
        found = probabilities(vlm, CHOICE.replace("{prompt}", PROMPT), images[[first, second]])
        return (found["1"] + found["0"] / 2) / (found["0"] + found["1"] + found["2"])

    expected = [(preference(one, other) + 1 - preference(other, one)) / 2 for one, other in pairs]
    assert wins == pytest.approx(expected, rel=1e-4)
    # The order matters to the model, or the test would not tell one order from both.
    assert max(abs(preference(one, other) - (1 - preference(other, one))) for one, other in pairs) > 0.01
