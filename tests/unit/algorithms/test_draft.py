"""DRaFT-K against the product rule through the last K steps, DRaFT-LV against its own renoised steps."""

import itertools
from typing import Any

import pytest
import torch

from srpo_ray.algorithms.base import LossOutput
from srpo_ray.algorithms.draft import DRaFT
from srpo_ray.config.algorithms.draft import DRaFTConfig
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
    points_by_hand,
    trained_steps,
)


def train(num_sampled: int = 6, update: int = 1, **config: Any) -> tuple[AffinePolicy, list[LossOutput]]:
    policy, batch = AffinePolicy(), make_batch(update=update)
    rollout = RolloutConfig(num_steps=num_sampled, guidance_scale=2.0)
    algorithm = DRaFT(DRaFTConfig(**config), rollout, as_policy(policy), as_scorer(PromptRewards()))
    outputs = [loss() for loss in algorithm.losses(batch, algorithm.collect(batch))]
    torch.stack([output.loss for output in outputs]).sum().backward()
    return policy, outputs


@pytest.mark.parametrize("last_steps", [1, 3, 6])
def test_gradient_goes_through_the_last_steps(last_steps: int) -> None:
    policy, outputs = train(num_steps=last_steps, renoisings=0)
    early, late = grid(6)[: 7 - last_steps], grid(6)[6 - last_steps :]
    tokens, _, _ = chain_by_hand(policy, drawn_noise(3, "rollout"), early)
    clean, by_offset, by_slope = chain_by_hand(policy, tokens, late)
    check_gradients(policy, [(1.0, by_offset, by_slope)])
    (output,) = outputs
    expected = -(torch.tensor([1.0, 2.0, 3.0]) * clean.mean(dim=(1, 2))).mean()
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-9)
    assert [gradient for gradient, _, _ in policy.calls] == [False] * (6 - last_steps) + [True] * last_steps
    assert {guidance for _, _, guidance in policy.calls} == {2.0}


def test_renoised_images_share_the_loss_and_each_goes_back_by_one_step_only() -> None:
    policy, outputs = train(num_steps=1, renoisings=2)
    sigma = grid(6)[5]
    clean, _, _ = chain_by_hand(policy, drawn_noise(3, "rollout"), grid(6))
    before_last, _, _ = chain_by_hand(policy, drawn_noise(3, "rollout"), grid(6)[:6])
    starts = [before_last]
    starts += [(1 - sigma) * clean + sigma * drawn_noise(3, "renoise", index) for index in range(2)]
    parts = [chain_by_hand(policy, start, [sigma, 0.0]) for start in starts]
    check_gradients(policy, [(1 / 3, by_offset, by_slope) for _, by_offset, by_slope in parts])
    assert len(outputs) == 3
    assert [gradient for gradient, _, _ in policy.calls] == [False] * 5 + [True] * 3


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_spread_gradient_is_that_of_autograd_with_detached_inputs(steps: int) -> None:
    policy, outputs = train(num_steps=steps, renoisings=0, gradient_steps="spread")
    chosen = {row[0] for row in trained_steps(policy, 6)}
    assert len(chosen) == steps
    assert [gradient for gradient, _, _ in policy.calls] == [False] * 6 + [True] * steps

    slope, offset = policy.slope.detach().requires_grad_(), policy.offset.detach().requires_grad_()
    tokens, sigmas = drawn_noise(3, "rollout"), grid(6)
    for step in range(6):
        velocity = slope * tokens.detach() + offset
        tokens = tokens + (sigmas[step + 1] - sigmas[step]) * (velocity if step in chosen else velocity.detach())
    loss = -(torch.tensor([1.0, 2.0, 3.0]) * tokens.mean(dim=(1, 2))).mean()
    loss.backward()
    torch.testing.assert_close(policy.slope.grad, slope.grad)
    torch.testing.assert_close(policy.offset.grad, offset.grad)
    (output,) = outputs
    assert output.loss.item() == pytest.approx(loss.item(), rel=1e-9)


def test_spread_steps_are_at_one_place_of_equal_parts_and_reach_every_step() -> None:
    seen: set[int] = set()
    for update in range(60):
        policy, _ = train(12, update, num_steps=3, renoisings=0, gradient_steps="spread")
        first, *others = [row[0] for row in trained_steps(policy, 12)]
        assert others == [first + 4, first + 8]
        seen |= {first, *others}
    assert seen == set(range(12))
    policy, _ = train(10, num_steps=4, renoisings=0, gradient_steps="spread")
    steps = [row[0] for row in trained_steps(policy, 10)]
    assert {after - before for before, after in itertools.pairwise(steps)} == {2, 3}


def test_spread_steps_with_renoisings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"renoisings 0 with gradient_steps spread, got 2; .*or gradient_steps to l"):
        DRaFTConfig(gradient_steps="spread")


def test_gradient_through_a_linear_velocity_has_no_product_if_steps_are_spread() -> None:
    policy, _ = train(num_steps=6, renoisings=0, gradient_steps="spread")
    points = points_by_hand(policy, drawn_noise(3, "rollout"), grid(6))
    moves = [after - before for before, after in zip(grid(6), grid(6)[1:], strict=False)]
    by_slope = torch.stack([move * point for move, point in zip(moves, points, strict=False)]).sum(0)
    check_gradients(policy, [(1.0, -1.0, by_slope)])
