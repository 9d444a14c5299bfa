"""Transitions between two sigmas: the Euler step, the SDE step with the same marginals, and its log-density."""

import math

import torch
from torch import Tensor

from srpo_ray.flow.path import per_sample


def euler_step(x: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """Compute one Euler step of `dx = velocity * dsigma`, towards data or towards noise.

    Args:
        x: Point at `sigma`, `[B, ...]`.
        velocity: Model's estimate of `noise - clean` at `x`, of the same shape.
        sigma: Noise level of `x`, `[B]`.
        sigma_next: Noise level of the result, `[B]`; a lower one denoises, a higher one inverts.
    """
    return x + per_sample(sigma_next - sigma, x) * velocity


def sde_step(x: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """Compute the normal distribution of one stochastic step towards data.

        clean = x - sigma * velocity
        score = -(x - (1 - sigma) * clean) / sigma^2
        mean = x + d * velocity - eta^2 / 2 * score * d,  std = eta * sqrt(-d),  d = sigma_next - sigma

    Args:
        x: Point at `sigma`, `[B, ...]`.
        velocity: Model's estimate of `noise - clean` at `x`, of the same shape.
        sigma: Noise level of `x`, `[B]` in (0, 1].
        sigma_next: Noise level of the result, `[B]`, below `sigma`.
        eta: Strength of the noise; 0 gives the Euler step.

    Returns:
        Mean of the shape of `x`, and standard deviation `[B, 1, ...]` that broadcasts over it.

    Source: DanceGRPO, arXiv 2505.07818, its reverse SDE of rectified flow.
    """
    here, move = per_sample(sigma, x), per_sample(sigma_next - sigma, x)
    clean = x - here * velocity
    score = -(x - (1 - here) * clean) / here**2
    mean = x + move * velocity - 0.5 * eta**2 * score * move
    return mean, eta * torch.sqrt(-move)


def log_density(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Compute the log-density of a point under a normal distribution, averaged over a sample's elements.

    The mean instead of the sum keeps probability ratios near 1 at any image size, so that one clip range suits all.

    Args:
        x: Points `[B, ...]`.
        mean: Mean, of the same shape.
        std: Standard deviation `[B, 1, ...]`, above 0.

    Returns:
        `[B]`.

    Source: DanceGRPO, arXiv 2505.07818.
    """
    density = -((x - mean) ** 2) / (2 * std**2) - torch.log(std) - 0.5 * math.log(2 * math.pi)
    return density.flatten(1).mean(1)
