"""Surrogate trajectories: a rollout that is kept as constants, with gradient through some of its steps only.

The image is that of the rollout, to the bit. Its gradient is the one of a cheaper function of the weights, such as the
sum of a few steps. This part is common to DRaFT with spread steps, DRTune, FlowBP and LeapAlign.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from srpo_ray.algorithms.base import Algorithm, Batch
from srpo_ray.flow import per_sample


@dataclass(frozen=True)
class Trajectory:
    """Rollout of B samples, without gradient."""

    points: Tensor
    """Tokens at every sigma, `[n + 1, B, N, 64]`."""
    sigmas: Tensor
    """Sigmas of the points `[n + 1]`, float64, from 1 to 0."""

    def __getitem__(self, rows: slice) -> "Trajectory":
        return Trajectory(self.points[:, rows], self.sigmas)

    def at(self, steps: Tensor) -> Tensor:
        """Select the tokens `[B, N, 64]` before a step of each sample, `[B]` from 0."""
        return self.points[steps.to(self.points.device), torch.arange(len(steps), device=self.points.device)]


def collect_trajectory(algorithm: Algorithm[Any], batch: Batch, sigmas: Tensor) -> Trajectory:
    """Sample along a grid from the batch's initial noise, and keep all points.

    Args:
        algorithm: Algorithm that samples.
        batch: Micro-batch.
        sigmas: Grid, from 1 to 0; the last step may be longer than one of the sampler.
    """
    rollout = algorithm.rollout
    noise, threshold = algorithm.noise(batch), rollout.cache_threshold
    points = algorithm.policy.trajectory(noise, batch.conditioning, sigmas, rollout.guidance_scale, threshold)
    return Trajectory(points, sigmas)


def pinned(value: Tensor, carrier: Tensor) -> Tensor:
    """Return `value`, to the bit, with the gradient of `carrier`; the straight-through estimator.

    Args:
        value: Constant.
        carrier: Tensor of the same shape with gradient, close to `value` or not.
    """
    return carrier - carrier.detach() + value.detach()


def scaled_gradient(x: Tensor, factor: float) -> Tensor:
    """Return `x`, to the bit, with `factor` times its gradient."""
    return pinned(x, factor * x)


def sum_of_steps(
    algorithm: Algorithm[Any],
    batch: Batch,
    trajectory: Trajectory,
    steps: Sequence[Tensor],
    start: Tensor | None = None,
) -> Tensor:
    """Sum some Euler steps of a rollout, recomputed with gradient: `sum of (sigma_next - sigma) * velocity(x)`.

    The inputs `x` are constants, so the gradient of the sum is the sum of the steps' own gradients: no chain of
    Jacobians. All steps are in one graph, so the memory is that of `len(steps)` calls.

    Args:
        algorithm: Algorithm with the trained policy.
        batch: Micro-batch.
        trajectory: Rollout of the batch.
        steps: For each call, the step of every sample `[B]`, from 0.
        start: Input of the first call with gradient `[B, N, 64]`; None takes the trajectory's point.

    Returns:
        `[B, N, 64]`.
    """
    total = torch.zeros_like(trajectory.points[0])
    for place, step in enumerate(steps):
        tokens = start if start is not None and place == 0 else trajectory.at(step)
        here, there = trajectory.sigmas[step], trajectory.sigmas[step + 1]
        velocity = algorithm.policy.velocity(tokens, here, batch.conditioning, algorithm.rollout.guidance_scale)
        total = total + per_sample(there - here, tokens) * velocity
    return total


def same_steps(steps: Sequence[int], batch: Batch) -> list[Tensor]:
    """Repeat steps that all samples of a batch share, `[B]` each."""
    return [torch.full((len(batch.prompts),), step) for step in steps]
