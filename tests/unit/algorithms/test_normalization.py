"""Advantages from rewards: sums, invariances, ranks and scales."""

from typing import Any

import pytest
import torch
from torch import Tensor

from srpo_ray.algorithms.normalization import advantages_of, means_of_blocks, win_rates
from srpo_ray.config.algorithms.advantage import AdvantageSection

REWARDS = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
OTHERS = 100 * torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
WEIGHTS = {"first": 1.0, "second": 0.5}


def find(total: Tensor, each: dict[str, Tensor] | None = None, **settings: Any) -> Tensor:
    return advantages_of(total, each or {}, WEIGHTS, AdvantageSection.model_validate(settings))


@pytest.mark.parametrize("scale", ["group", "update", "none"])
@pytest.mark.parametrize("rank", ["none", "win_rate"])
def test_advantages_of_a_group_sum_to_zero_and_do_not_change_with_an_offset(scale: str, rank: str) -> None:
    found = find(REWARDS, scale=scale, rank=rank, limit=1e9)
    torch.testing.assert_close(found.sum(dim=1), torch.zeros(5).double(), rtol=0, atol=1e-12)
    moved = find(3 * REWARDS + 7, scale=scale, rank=rank, limit=1e9)
    factor = 3 if scale == "none" and rank == "none" else 1
    torch.testing.assert_close(moved, factor * found, rtol=1e-7, atol=1e-9)


def test_centre_and_scale_of_the_update_are_those_of_all_images() -> None:
    found = find(REWARDS, centre="update", scale="update")
    torch.testing.assert_close(found, (REWARDS - REWARDS.mean()) / REWARDS.std(), rtol=1e-7, atol=1e-9)
    centred = REWARDS - REWARDS.mean(dim=1, keepdim=True)
    torch.testing.assert_close(find(REWARDS, scale="update"), centred / REWARDS.std(), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(find(REWARDS, scale="none"), centred, rtol=0, atol=0)


def test_rewards_that_are_normalised_each_do_not_depend_on_their_scales() -> None:
    each = {"first": REWARDS, "second": OTHERS}
    sums = REWARDS + 0.5 * OTHERS
    found = find(sums, each, rewards="each", scale="none")
    torch.testing.assert_close(find(sums, {**each, "second": OTHERS / 50}, rewards="each", scale="none"), found)

    def normal(values: Tensor) -> Tensor:
        return (values - values.mean(dim=1, keepdim=True)) / values.std(dim=1, keepdim=True)

    expected = normal(REWARDS) + 0.5 * normal(OTHERS)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    updated = find(sums, each, rewards="each", scale="update")
    torch.testing.assert_close(updated, expected / expected.std(), rtol=1e-6, atol=1e-7)


def test_win_rate_counts_wins_and_half_of_ties() -> None:
    found = win_rates(torch.tensor([[3.0, 1.0, 2.0, 2.0], [5.0, 5.0, 5.0, 5.0]]).double(), 0.0)
    expected = torch.tensor([[3.5, 0.5, 2.0, 2.0], [2.0, 2.0, 2.0, 2.0]]).double() / 4
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert win_rates(torch.tensor([[0.0, 0.1, 1.0]]).double(), 0.2).tolist() == [[1 / 3, 1 / 3, 2.5 / 3]]


def test_group_without_differences_has_no_advantage_and_an_outlier_is_limited() -> None:
    equal = torch.ones(2, 4, dtype=torch.float64)
    assert find(equal).abs().max() == 0
    assert find(torch.tensor([[0.0] * 99 + [1.0]]).double(), limit=5.0)[0, -1].item() == 5.0


def test_states_of_a_tree_have_the_mean_of_their_images() -> None:
    assert means_of_blocks(torch.tensor([[1.0, 3.0, 5.0, 9.0]]), 2).tolist() == [[2.0, 7.0]]
    assert means_of_blocks(REWARDS, 1) is REWARDS
