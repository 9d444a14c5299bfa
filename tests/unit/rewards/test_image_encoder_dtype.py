"""Reward models with image encoders in bfloat16: gradients of almost the same direction, texts in float32."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from srpo_ray.config import load_run
from srpo_ray.config.rewards import OpenClipRewardConfig
from srpo_ray.launch import reward_precision as precision
from srpo_ray.rewards.query import TextQuery
from tests.conftest import SMALL_WORLD

PROMPTS = ["a red circle", "two blue squares"]


def smooth_images() -> Tensor:
    coarse = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return interpolate(coarse, (64, 64), mode="bilinear")


def queries(prompts: Sequence[str] = PROMPTS) -> dict[str, list[TextQuery]]:
    words = (("detailed",), ("flat",))
    return {
        "plain": [TextQuery.plain(prompt) for prompt in prompts],
        "relative": [TextQuery.relative(prompt, *words) for prompt in prompts],
    }


@pytest.mark.parametrize("name", ["preference", "contrastive"])
def test_small_worlds_rewards_in_bfloat16_have_the_gradients_of_float32(name: str) -> None:
    config = OpenClipRewardConfig(name=name, path=f"small_world:{name}")
    found = list(precision.reward_precision(config, smooth_images(), queries()))
    assert [each.query for each in found] == ["plain", "relative"]
    assert all(0.999 <= each.cosine < 1 for each in found), found
    assert all(0 < each.score_error < 0.01 for each in found), found
    assert all(each.passes for each in found)


def test_check_of_a_run_names_the_trained_rewards_and_fails_below_the_limit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(SMALL_WORLD), "--images", "2", "--device", "cpu"]
    trained = [model.name for model in load_run([SMALL_WORLD]).rewards.models]
    assert precision.main(words) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(" query:")[0] for line in printed] == [
        f"{name}, {kind}" for name in trained for kind in ("plain", "relative")
    ]
    monkeypatch.setattr(precision, "LEAST_COSINE", 1.0)
    assert precision.main(words) == 1
    assert capsys.readouterr().out.count("below 1.0: keep dtype float32") == len(printed)


def test_check_of_a_run_that_cannot_be_read_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert precision.main([str(SMALL_WORLD), "rewards.models.0.path=/nowhere", "--device", "cpu"]) == 2
    assert "expected an open_clip model" in capsys.readouterr().err
