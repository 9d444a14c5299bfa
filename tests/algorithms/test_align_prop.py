"""AlignProp against the product rule through the steps after its cut, and the draw of the cut."""

from collections import Counter
from typing import Any

import pytest
import torch

from srpo_ray.algorithms.align_prop import AlignProp
from srpo_ray.config.baselines import AlignPropConfig
from srpo_ray.config.model import RolloutConfig
from tests.algorithms.stand_ins import (
    AffinePolicy,
    PromptRewards,
    as_policy,
    as_scorer,
    chain_by_hand,
    check_gradients,
    drawn_noise,
    grid,
    make_batch,
)


def make(policy: AffinePolicy, num_steps: int = 6, seed: int = 7, **config: Any) -> AlignProp:
    rollout = RolloutConfig(num_steps=num_steps, guidance_scale=2.0)
    return AlignProp(AlignPropConfig(**config), rollout, as_policy(policy), as_scorer(PromptRewards()), seed)


def cuts(num_steps: int, updates: int, **config: Any) -> list[int]:
    algorithm = make(AffinePolicy(), num_steps, **config)
    return [algorithm.collect(make_batch(1, step)).cut for step in range(updates)]


def test_gradient_is_that_of_a_chain_whose_outputs_before_the_cut_are_detached() -> None:
    policy = AffinePolicy()
    algorithm = make(policy, cut="normal", cut_mean=0.5, cut_std=0)
    (loss,) = [pending.result() for pending in algorithm.losses(make_batch(), algorithm.collect(make_batch()))]
    loss.loss.backward()

    tokens, _, _ = chain_by_hand(policy, drawn_noise(3, "rollout"), grid(6)[:4])
    clean, by_offset, by_slope = chain_by_hand(policy, tokens, grid(6)[3:])
    check_gradients(policy, [(1.0, by_offset, by_slope)])
    expected = -(torch.tensor([1.0, 2.0, 3.0]) * clean.mean(dim=(1, 2))).mean()
    assert loss.loss.item() == pytest.approx(expected.item(), rel=1e-9)
    assert loss.metrics["step/gradient_steps"].tolist() == [3, 3, 3]
    assert {guidance for _, _, guidance in policy.calls} == {2.0}


def test_uniform_cut_is_anywhere_but_after_the_last_step() -> None:
    counts = Counter(cuts(6, 600))
    assert set(counts) == set(range(6))
    assert all(abs(count - 100) < 50 for count in counts.values())


def test_normal_cut_has_mean_and_spread_of_the_steps_it_is_scaled_to() -> None:
    drawn = torch.tensor(cuts(50, 600, cut="normal"), dtype=torch.float64)
    assert drawn.mean().item() == pytest.approx(42, abs=0.7)
    assert drawn.std().item() == pytest.approx(5, abs=0.7)
    assert drawn.max().item() <= 49


def test_cut_is_the_updates_and_not_the_batchs() -> None:
    algorithm = make(AffinePolicy())
    assert algorithm.collect(make_batch(1, step=4)).cut == algorithm.collect(make_batch(3, step=4)).cut
