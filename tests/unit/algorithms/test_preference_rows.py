"""Losses of rows in closed form: the baseline of KTO leaves out prompts without a pair."""

from math import exp

import pytest
import torch

from srpo_ray.algorithms.preference_rows import Compared, row_losses
from srpo_ray.algorithms.preference_sources import Judged
from srpo_ray.config.algorithms.preference import PreferenceConfig

GAINS = [torch.tensor([0.3, -9.0, 0.1]), torch.tensor([-0.2, 50.0, 0.4])]


def judged(valid: list[bool] | None) -> Judged:
    ones = torch.ones(3)
    return Judged((), (), (ones, -ones), ones, None if valid is None else torch.tensor(valid))


def losses_of_kto(valid: list[bool] | None) -> tuple[list[float], float]:
    config = PreferenceConfig(source="online", loss="kto", beta=2.0)
    losses, metrics = row_losses(config, judged(valid), Compared([], (), [torch.ones(3)] * 2, GAINS))
    return losses.tolist(), metrics["preference/baseline"].unique().item()


def sigmoid(value: float) -> float:
    return 1 / (1 + exp(-value))


def test_baseline_of_kto_is_the_mean_gain_of_the_pairs() -> None:
    losses, baseline = losses_of_kto([True, False, True])
    z = (0.3 + 0.1 - 0.2 + 0.4) / 4
    expected = [
        (1 - sigmoid(2 * (preferred - z)) + 1 - sigmoid(-2 * (other - z))) / 2
        for preferred, other in ((0.3, -0.2), (0.1, 0.4))
    ]
    assert baseline == pytest.approx(z)
    assert losses == pytest.approx([expected[0], 0.0, expected[1]])


def test_baseline_of_kto_is_the_mean_gain_of_all_images_if_all_are_judged() -> None:
    assert losses_of_kto(None)[1] == pytest.approx((0.3 - 9 + 0.1 - 0.2 + 50 + 0.4) / 6)


def test_pass_without_a_pair_has_the_loss_0() -> None:
    assert losses_of_kto([False] * 3) == ([0.0, 0.0, 0.0], 0.0)
