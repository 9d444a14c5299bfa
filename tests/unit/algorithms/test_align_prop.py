"""AlignProp against the product rule through the steps after its cut, and the draw of the cut."""

import math
import random
from collections import Counter
from typing import Any

import pytest
import torch

from srpo_ray.algorithms.align_prop import AlignProp
from srpo_ray.config.algorithms.align_prop import AlignPropConfig
from srpo_ray.config.model import RolloutConfig
from tests.helpers.algorithms.stand_ins import (
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


def make(policy: AffinePolicy, num_steps: int = 6, **config: Any) -> AlignProp:
    rollout = RolloutConfig(num_steps=num_steps, guidance_scale=2.0)
    return AlignProp(AlignPropConfig(**config), rollout, as_policy(policy), as_scorer(PromptRewards()))


def cuts(num_steps: int, updates: int, **config: Any) -> list[int]:
    algorithm = make(AffinePolicy(), num_steps, **config)
    return [algorithm.collect(make_batch(1, step)).cut for step in range(updates)]


def test_gradient_is_that_of_a_chain_whose_outputs_before_the_cut_are_detached() -> None:
    policy = AffinePolicy()
    algorithm = make(policy, cut="normal", cut_mean=0.5, cut_std=0)
    (loss,) = [loss() for loss in algorithm.losses(make_batch(), algorithm.collect(make_batch()))]
    loss.loss.backward()

    tokens, _, _ = chain_by_hand(policy, drawn_noise(3, "rollout"), grid(6)[:4])
    clean, by_offset, by_slope = chain_by_hand(policy, tokens, grid(6)[3:])
    check_gradients(policy, [(1.0, by_offset, by_slope)])
    expected = -(torch.tensor([1.0, 2.0, 3.0]) * clean.mean(dim=(1, 2))).mean()
    assert loss.loss.item() == pytest.approx(expected.item(), rel=1e-9)
    assert loss.metrics["step/gradient_steps"].tolist() == [3, 3, 3]
    assert {guidance for _, _, guidance in policy.calls} == {2.0}


def test_uniform_cut_is_any_step_but_the_first() -> None:
    counts = Counter(cuts(6, 600))
    assert set(counts) == {1, 2, 3, 4, 5}
    assert all(abs(count - 120) < 50 for count in counts.values())


@pytest.mark.parametrize(("mean", "std"), [(0.84, 0.1), (0.1, 0.3), (0.95, 0.02)])
def test_normal_cut_is_rounded_down_and_drawn_again_until_it_is_within_the_steps(mean: float, std: float) -> None:
    drawn = Counter(cuts(50, 2000, cut="normal", cut_mean=mean, cut_std=std))
    source = random.Random(5)
    expected: Counter[int] = Counter()
    while expected.total() < 200_000:
        cut = math.floor(source.gauss(mean * 50, std * 50))
        if 1 <= cut < 50:
            expected[cut] += 1
    assert set(drawn) <= set(expected)
    for cut, count in expected.items():
        chance = count / expected.total()
        assert abs(drawn[cut] - 2000 * chance) < 5 * math.sqrt(2000 * chance) + 1


def test_authors_cut_of_42_and_5_is_seldom_the_last_step() -> None:
    chances = AlignPropConfig(cut="normal").cut_probabilities(50)
    # Of a standard normal below 1.6, the part above 1.4.
    assert chances[49] == pytest.approx(0.0259572 / 0.9452007, abs=1e-5)
    assert sum(chances) == pytest.approx(1)


@pytest.mark.parametrize("config", [{"cut_mean": 1.0, "cut_std": 0}, {"cut_mean": 0, "cut_std": 1e-4}])
def test_cut_that_is_never_within_the_steps_is_refused(config: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"expected a cut after the first of rollout.num_steps = 10 steps .*cut_mean"):
        AlignPropConfig.model_validate({"cut": "normal", **config}).cut_probabilities(10)


def test_cut_is_the_updates_and_not_the_batchs() -> None:
    algorithm = make(AffinePolicy())
    assert algorithm.collect(make_batch(1, update=4)).cut == algorithm.collect(make_batch(3, update=4)).cut
