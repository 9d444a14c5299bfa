"""LeapAlign against the product rule through its two leaps, its weights, and the draw of its steps."""

from collections import Counter
from typing import Any

import pytest
import torch

from srpo_ray.algorithms.leap_align import LeapAlign
from srpo_ray.config.algorithms.leap_align import LeapAlignConfig
from srpo_ray.config.model import RolloutConfig
from tests.helpers.algorithms.stand_ins import (
    AffinePolicy,
    PromptRewards,
    as_policy,
    as_scorer,
    check_gradients,
    drawn_noise,
    grid,
    make_batch,
    points_by_hand,
    trained_steps,
)


def make(policy: AffinePolicy, rewards: PromptRewards, num_steps: int = 6, **config: Any) -> LeapAlign:
    rollout = RolloutConfig(num_steps=num_steps, guidance_scale=2.0)
    return LeapAlign(LeapAlignConfig(hinge=1e3, **config), rollout, as_policy(policy), as_scorer(rewards))


@pytest.mark.parametrize("discount", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("min_distance", [0.1, 5.0])
def test_gradient_is_that_of_two_leaps_with_a_discounted_product(discount: float, min_distance: float) -> None:
    policy, rewards = AffinePolicy(), PromptRewards()
    algorithm = make(policy, rewards, discount=discount, min_distance=min_distance)
    (loss,) = [loss() for loss in algorithm.losses(make_batch(), algorithm.collect(make_batch()))]
    loss.loss.backward()

    sigmas, slope = torch.tensor(grid(6), dtype=torch.float64), policy.slope.item()
    points = torch.stack(points_by_hand(policy, drawn_noise(3, "rollout"), grid(6)))
    firsts, seconds = trained_steps(policy, 6)
    offsets, slopes, weights = [], [], []
    for row, (first, second) in enumerate(zip(firsts, seconds, strict=True)):
        assert first < second
        k, j = sigmas[first].item(), sigmas[second].item()
        before, middle = points[first, row], points[second, row]
        landed = before + (j - k) * (slope * before + policy.offset.detach())
        finished = middle - j * (slope * middle + policy.offset.detach())
        to_middle, to_end = (landed - middle).abs().mean().item(), (finished - points[-1, row]).abs().mean().item()
        weights.append(1 / (max(to_middle, min_distance) + max(to_end, min_distance)))
        offsets.append((j - k) - j * (1 + discount * slope * (j - k)))
        slopes.append((j - k) * before - j * (middle + discount * slope * (j - k) * before))
    weight = torch.tensor(weights, dtype=torch.float64)
    scaled = weight[:, None, None] * torch.stack(slopes)
    check_gradients(policy, [(1.0, weight * torch.tensor(offsets, dtype=torch.float64), scaled)])
    torch.testing.assert_close(loss.metrics["leap/weight"], weight)
    # The reward sees the image of the rollout, not the end of a leap.
    ((images, _),) = rewards.submitted
    torch.testing.assert_close(images.detach(), points[-1])
    numbers = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    expected = (weight * (1e3 - numbers * points[-1].mean(dim=(1, 2)))).mean()
    assert loss.loss.item() == pytest.approx(expected.item(), rel=1e-9)


def test_every_pair_of_steps_occurs_equally_often_and_samples_have_their_own() -> None:
    pairs: Counter[tuple[int, int]] = Counter()
    for update in range(200):
        policy = AffinePolicy()
        algorithm, batch = make(policy, PromptRewards(), 4), make_batch(3, update)
        list(algorithm.losses(batch, algorithm.collect(batch)))
        pairs.update(zip(*trained_steps(policy, 4), strict=True))
    assert set(pairs) == {(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}
    assert all(abs(count - 100) < 40 for count in pairs.values())


def test_sampler_of_one_step_is_refused() -> None:
    with pytest.raises(ValueError, match=r"num_steps of at least 2 with algorithm leap_align, got 1; .*raise it"):
        LeapAlignConfig().check_rollout(1)
