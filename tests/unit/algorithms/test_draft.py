"""DRaFT-K against the product rule through the last K steps, DRaFT-LV against its own renoised steps."""

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
)


def train(**config: Any) -> tuple[AffinePolicy, list[LossOutput]]:
    policy = AffinePolicy()
    rollout = RolloutConfig(num_steps=6, guidance_scale=2.0)
    algorithm = DRaFT(DRaFTConfig(**config), rollout, as_policy(policy), as_scorer(PromptRewards()))
    outputs = [loss() for loss in algorithm.losses(make_batch(), algorithm.collect(make_batch()))]
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
