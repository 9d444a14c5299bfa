"""Transitions between two sigmas: the Euler step, two stochastic steps and their noise, and the log-density."""

import math

import torch
from torch import Tensor

from srpo_ray.config.algorithms.transition import NoiseKind, StepKind
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


def sde_step(
    x: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor, eta: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the normal distribution of one stochastic step towards data: an Euler-Maruyama step.

        clean = x - sigma * velocity
        score = -(x - (1 - sigma) * clean) / sigma^2
        mean = x + d * velocity - eta^2 / 2 * score * d,  std = eta * sqrt(-d),  d = sigma_next - sigma

    Args:
        x: Point at `sigma`, `[B, ...]`.
        velocity: Model's estimate of `noise - clean` at `x`, of the same shape.
        sigma: Noise level of `x`, `[B]` in (0, 1].
        sigma_next: Noise level of the result, `[B]`, below `sigma`.
        eta: Diffusion of the SDE, a number or `[B]`; 0 gives the Euler step.

    Returns:
        Mean of the shape of `x`, and standard deviation `[B, 1, ...]` that broadcasts over it.

    Source: DanceGRPO, arXiv 2505.07818, its reverse SDE of rectified flow.
    """
    eta = per_sample(eta, x) if isinstance(eta, Tensor) else eta
    here, move = per_sample(sigma, x), per_sample(sigma_next - sigma, x)
    clean = x - here * velocity
    score = -(x - (1 - here) * clean) / here**2
    mean = x + move * velocity - 0.5 * eta**2 * score * move
    return mean, eta * torch.sqrt(-move)


def flow_diffusion(strength: float, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """Compute the diffusion `strength * sqrt(sigma / (1 - sigma))` of Flow-GRPO's SDE.

    At sigma 1, where it is infinite, the denominator has the next sigma, as in the release.

    Args:
        strength: Factor, above 0.
        sigma: Noise level of each sample, `[B]` in (0, 1].
        sigma_next: Noise level after the step, `[B]`.

    Source: Flow-GRPO, arXiv 2505.05470.
    """
    return strength * torch.sqrt(sigma / (1 - torch.where(sigma == 1, sigma_next, sigma)))


def frozen_step(x: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the normal distribution of a stochastic step that keeps the estimates of clean image and noise.

        clean = x - sigma * velocity,  noise = x + (1 - sigma) * velocity
        mean = (1 - sigma_next) * clean + sigma_next * kept * noise,  std = sigma_next * sqrt(1 - kept^2)

    The noise after the step has the variance of the noise before it. With `kept` 1 it is the Euler step, and a step to
    sigma 0 has no noise.

    Args:
        x: Point at `sigma`, `[B, ...]`.
        velocity: Model's estimate of `noise - clean` at `x`, of the same shape.
        sigma: Noise level of `x`, `[B]` in (0, 1].
        sigma_next: Noise level of the result, `[B]`, below `sigma`.
        kept: Correlation of the noises before and after the step, `[B]` in [0, 1].

    Returns:
        Mean of the shape of `x`, and standard deviation `[B, 1, ...]` that broadcasts over it.

    Source: Coefficients-Preserving Sampling, arXiv 2509.05952.
    """
    here, there, kept_noise = per_sample(sigma, x), per_sample(sigma_next, x), per_sample(kept, x)
    clean, noise = x - here * velocity, x + (1 - here) * velocity
    std = per_sample(sigma_next * torch.sqrt(1 - kept**2), x)
    return (1 - there) * clean + there * kept_noise * noise, std


def kept_noise(kind: NoiseKind, strength: float, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """Compute the correlation of the noises before and after a frozen step.

    With the diffusion g it is `exp(-1/2 * integral of g^2 / sigma^2)` over the step. `cps` has a fixed correlation,
    independent of the length of the step.

    Args:
        kind: `constant` for g = strength, `flow` for g = strength * sqrt(sigma / (1 - sigma)), or `cps`.
        strength: Strength of the noise, above 0; for `cps` at most 1.
        sigma: Noise level before the step, `[B]` in (0, 1], float64.
        sigma_next: Noise level after the step, `[B]` in [0, 1), float64.

    Returns:
        `[B]` in [0, 1].
    """
    if kind == "cps":
        # At strength 1 the cosine is rounded to 6e-17.
        return torch.full_like(sigma, math.cos(strength * math.pi / 2) if strength < 1 else 0.0)
    if kind == "constant":
        return torch.exp(-(strength**2) / 2 * (1 / sigma_next - 1 / sigma))
    return (sigma_next * (1 - sigma) / (sigma * (1 - sigma_next))) ** (strength**2 / 2)


def stochastic_step(
    x: Tensor,
    velocity: Tensor,
    sigma: Tensor,
    sigma_next: Tensor,
    *,
    step: StepKind,
    noise: NoiseKind,
    strength: float,
) -> tuple[Tensor, Tensor]:
    """Compute the normal distribution of a stochastic step towards data.

    Args:
        x: Point at `sigma`, `[B, ...]`.
        velocity: Model's estimate of `noise - clean` at `x`, of the same shape.
        sigma: Noise level of `x`, `[B]` in (0, 1], float64.
        sigma_next: Noise level of the result, `[B]`, below `sigma`, float64.
        step: `euler_maruyama` as in `sde_step`, or `frozen` as in `frozen_step`.
        noise: Kind of the noise; `cps` only with frozen steps.
        strength: Strength of the noise, above 0.

    Returns:
        Mean of the shape of `x`, and standard deviation `[B, 1, ...]` that broadcasts over it.
    """
    if step == "frozen":
        return frozen_step(x, velocity, sigma, sigma_next, kept_noise(noise, strength, sigma, sigma_next))
    eta = flow_diffusion(strength, sigma, sigma_next) if noise == "flow" else strength
    return sde_step(x, velocity, sigma, sigma_next, eta)


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
