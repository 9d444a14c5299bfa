"""FlowBP against its gradient by hand, sparse and with a bridge, and the draw of its active steps."""

from collections import Counter
from typing import Any

import pytest
import torch

from srpo_ray.algorithms.flow_bp import FlowBP
from srpo_ray.config.algorithms.flow_bp import FlowBPConfig
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


def make(policy: AffinePolicy, rewards: PromptRewards, num_steps: int = 8, **config: Any) -> FlowBP:
    rollout = RolloutConfig(num_steps=num_steps, guidance_scale=2.0)
    return FlowBP(FlowBPConfig(hinge=1e3, **config), rollout, as_policy(policy), as_scorer(rewards))


def expected(
    policy: AffinePolicy, steps: list[int], points: torch.Tensor, bridge: float | None, rescale: float
) -> tuple[float, torch.Tensor]:
    """Derivatives of one sample's image in offset and slope; with a bridge, the step in the middle splits."""
    sigmas, slope = grid(8), policy.slope.item()
    moves = {step: sigmas[step + 1] - sigmas[step] for step in steps}
    factor = 1 + rescale * (1 / -sum(moves.values()) - 1)
    own = {step: (moves[step], moves[step] * points[step]) for step in steps}
    by_offset = factor * sum(offset for offset, _ in own.values())
    by_slope = factor * torch.stack([value for _, value in own.values()]).sum(0)
    if bridge is not None:
        *before, split = steps[: len(steps) // 2 + 1]
        passed = factor * factor * moves[split] * bridge * slope
        by_offset += passed * sum(own[step][0] for step in before)
        by_slope = by_slope + passed * torch.stack([own[step][1] for step in before]).sum(0)
    return by_offset, by_slope


@pytest.mark.parametrize("rescale", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("variant", "bridge", "active"), [("sparse", None, 3), ("bridge", 0.0, 4), ("bridge", 0.1, 5), ("bridge", 1.0, 2)]
)
def test_gradient_is_that_of_the_active_steps_and_of_one_bridge(
    variant: str, bridge: float | None, active: int, rescale: float
) -> None:
    policy, rewards = AffinePolicy(), PromptRewards()
    options: dict[str, Any] = {"variant": variant, "active_steps": active, "rescale": rescale}
    if bridge is not None:
        options["bridge_gradient"] = bridge
    algorithm = make(policy, rewards, **options)
    (loss,) = [loss() for loss in algorithm.losses(make_batch(), algorithm.collect(make_batch()))]
    loss.loss.backward()

    points = torch.stack(points_by_hand(policy, drawn_noise(3, "rollout"), grid(8)))
    rows = list(zip(*trained_steps(policy, 8), strict=True))
    found = [expected(policy, list(row), points[:, place], bridge, rescale) for place, row in enumerate(rows)]
    offsets = torch.tensor([offset for offset, _ in found], dtype=torch.float64)
    check_gradients(policy, [(1.0, offsets, torch.stack([slope for _, slope in found]))])
    ((images, _),) = rewards.submitted
    torch.testing.assert_close(images.detach(), points[-1])
    assert [gradient for gradient, _, _ in policy.calls] == [False] * 8 + [True] * active


def draws(updates: int, **config: Any) -> list[tuple[int, ...]]:
    found = []
    for update in range(updates):
        policy = AffinePolicy()
        algorithm, batch = make(policy, PromptRewards(), **config), make_batch(3, update)
        list(algorithm.losses(batch, algorithm.collect(batch)))
        found += zip(*trained_steps(policy, 8), strict=True)
    return found


def test_sparse_steps_are_different_and_late_ones_are_preferred_by_their_weight() -> None:
    counts = Counter(row[0] for row in draws(400, variant="sparse", active_steps=1, late_bias=2.0))
    total = sum(place**2 for place in range(1, 9))
    for step in range(8):
        chance = (step + 1) ** 2 / total
        assert abs(counts[step] - 1200 * chance) < 4 * (1200 * chance) ** 0.5 + 1
    assert all(len(set(row)) == 5 and list(row) == sorted(row) for row in draws(20, variant="sparse"))


def test_bridge_has_half_of_its_other_steps_before_it_and_splits_anywhere_between() -> None:
    rows = draws(200, active_steps=4)
    assert all(list(row) == sorted(set(row)) for row in rows)
    assert {row[2] for row in rows} == {2, 3, 4, 5, 6}


def test_more_active_steps_than_the_sampler_has_are_refused() -> None:
    with pytest.raises(ValueError, match=r"active_steps of at most rollout.num_steps = 4, got 5; lower"):
        FlowBPConfig().check_rollout(4)
    with pytest.raises(ValueError, match=r"at least 2 active_steps with variant bridge, got 1; .*set variant to spar"):
        FlowBPConfig(active_steps=1)
    FlowBPConfig(active_steps=1, variant="sparse").check_rollout(1)
