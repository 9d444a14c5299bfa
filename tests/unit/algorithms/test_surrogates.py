"""Losses of a trained step against their definitions, and their gradients where the policy has not moved."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from srpo_ray.algorithms.moves import TrainedStep
from srpo_ray.algorithms.surrogates import dppo_losses, surrogate_loss
from srpo_ray.config.algorithms.surrogate import SurrogateSection
from srpo_ray.flow import log_density

STATES, CHILDREN, SHAPE = 3, 2, (4, 5)
STD = torch.tensor([0.1, 0.3, 0.5], dtype=torch.float64)
LENGTH = torch.tensor([0.05, 0.1, 0.2], dtype=torch.float64)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


MEAN = draw(STATES, *SHAPE)
ADVANTAGES = draw(STATES * CHILDREN, seed=2)


def make_step(reference: Tensor | None = None) -> tuple[TrainedStep, Tensor]:
    """A step with the noise that made it, `[V, ...]`."""
    mean, noise = MEAN, draw(STATES * CHILDREN, *SHAPE, seed=1)
    after = mean.repeat_interleave(CHILDREN, 0) + STD.repeat_interleave(CHILDREN)[:, None, None] * noise
    density = log_density(after, mean.repeat_interleave(CHILDREN, 0), STD.repeat_interleave(CHILDREN)[:, None, None])
    return TrainedStep(torch.zeros(STATES).long(), mean, after, density, mean, reference, ADVANTAGES), noise


def loss_of(settings: dict[str, Any], step: TrainedStep, mean: Tensor) -> Tensor:
    wide_std = STD.repeat_interleave(CHILDREN)[:, None, None]
    density = log_density(step.after, mean.repeat_interleave(CHILDREN, 0), wide_std)
    config = SurrogateSection.model_validate(settings)
    return surrogate_loss(config, step, mean, STD[:, None, None], LENGTH, density, 1.0, CHILDREN).loss


def test_logarithm_of_guards_ratio_is_the_mean_of_noise_times_shift() -> None:
    step, noise = make_step()
    shift = 0.02 * draw(STATES, *SHAPE, seed=3)
    found = loss_of({"type": "guard", "clip_range": 1e9}, step, MEAN + shift)
    ratio = torch.exp((noise * shift.repeat_interleave(CHILDREN, 0)).mean(dim=(1, 2)))
    expected = (-ADVANTAGES * ratio / LENGTH.repeat_interleave(CHILDREN)).mean()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert (ratio - 1).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("settings", "weight"),
    [
        ({"type": "ppo"}, 1 / STD),
        ({"type": "ppo", "step_weight": "std"}, torch.ones(STATES, dtype=torch.float64)),
        ({"type": "ppo", "step_weight": "unit"}, 2 * STD),
        ({"type": "dppo"}, 1 / STD),
        ({"type": "guard"}, 1 / LENGTH),
        ({"type": "dppo", "step_weight": "std"}, torch.ones(STATES, dtype=torch.float64)),
    ],
    ids=str,
)
def test_before_the_policy_has_moved_every_loss_is_noise_times_advantage_with_a_weight_per_step(
    settings: dict[str, Any], weight: Tensor
) -> None:
    step, noise = make_step()
    mean = MEAN.clone().requires_grad_()
    loss_of(settings, step, mean).backward()
    single = -ADVANTAGES[:, None, None] * noise / noise[0].numel() / len(noise)
    expected = weight[:, None, None] * single.reshape(STATES, CHILDREN, *SHAPE).sum(dim=1)
    assert mean.grad is not None
    torch.testing.assert_close(mean.grad, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("advantage", "ratio", "divergence", "removed"),
    [
        (1.0, 1.1, 2e-5, True),
        (1.0, 0.9, 2e-5, False),
        (-1.0, 0.9, 2e-5, True),
        (-1.0, 1.1, 2e-5, False),
        (1.0, 1.1, 0.5e-5, False),
        (-1.0, 0.9, 0.5e-5, False),
        (0.0, 1.1, 2e-5, False),
    ],
)
def test_dppo_removes_steps_that_are_too_far_and_would_move_further(
    advantage: float, ratio: float, divergence: float, removed: bool
) -> None:
    now = torch.tensor([ratio], dtype=torch.float64, requires_grad=True)
    losses, found = dppo_losses(now, torch.tensor([advantage]).double(), torch.tensor([divergence]).double(), 1e-5)
    assert found.tolist() == [float(removed)]
    assert losses.item() == pytest.approx(0 if removed else -advantage * ratio)
    losses.sum().backward()
    assert now.grad is not None
    assert now.grad.item() == pytest.approx(0 if removed else -advantage)


def test_pair_of_a_step_compares_densities_with_the_initial_model() -> None:
    reference = draw(STATES, *SHAPE, seed=4) * 0.01
    step, noise = make_step(MEAN + reference)
    sign = torch.sign(ADVANTAGES.reshape(STATES, CHILDREN) @ torch.tensor([1.0, -1.0]).double())
    step = replace(step, advantages=torch.stack([sign, -sign], dim=1).flatten())
    found = loss_of({"type": "pair", "clip_range": 0.99, "beta": 3.0}, step, MEAN)
    spread = STD.repeat_interleave(CHILDREN)[:, None, None]
    moved = noise - reference.repeat_interleave(CHILDREN, 0) / spread
    log_ratio = 0.5 * (moved**2 - noise**2).mean(dim=(1, 2)).reshape(STATES, CHILDREN)
    expected = torch.log1p(torch.exp(-3 * sign * (log_ratio[:, 0] - log_ratio[:, 1]))).mean()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
