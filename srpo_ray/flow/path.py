"""Straight path between data and noise, `x = (1 - sigma) * clean + sigma * noise`, and its inverse."""

import torch
from torch import Tensor


def per_sample(sigma: Tensor, like: Tensor) -> Tensor:
    """Reshape per-sample sigmas `[B]` to broadcast over `like` `[B, ...]`, in its data type and on its device."""
    return sigma.to(like).reshape(-1, *[1] * (like.ndim - 1))


def mix(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Compute the point of the straight path at `sigma`.

    Args:
        clean: Data end, `[B, ...]`.
        noise: Noise end, of the same shape.
        sigma: Noise level of each sample, `[B]` in [0, 1].
    """
    sigma = per_sample(sigma, clean)
    return (1 - sigma) * clean + sigma * noise


def renoise(tokens: Tensor, noise: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """Add noise to a point at `here`, so that it is distributed like a point at `there`.

    The clean part of the result has the factor `1 - there`, and its noise the variance `there^2`.

    Args:
        tokens: Points, `[B, ...]`.
        noise: Standard normal noise, independent of that in the points, of the same shape.
        here: Sigma of each point, `[B]` in [0, 1].
        there: Sigma of the result, `[B]` in [`here`, 1]; where it equals `here`, the point stays.
    """
    start, end = per_sample(here, tokens), per_sample(there, tokens)
    kept = ((1 - end) / (1 - start).clamp(min=1e-12)).where(end > start, torch.ones_like(end))
    added = (end.square() - (kept * start).square()).clamp(min=0).sqrt()
    return kept * tokens + added * noise


def recover_clean(noisy: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Solve the straight path for its clean end, given the noise that was mixed in.

        clean = (noisy - sigma * noise) / (1 - sigma)

    Args:
        noisy: Point at `sigma`, `[B, ...]`, after a model step with gradient.
        noise: The noise that was mixed in, of the same shape; it is known, so there is no prediction error.
        sigma: Noise level of each sample, `[B]` in [0, 1). Near 1 the division amplifies rounding: use float32.

    Source: Direct-Align, arXiv 2509.06942, section 3.
    """
    sigma = per_sample(sigma, noisy)
    return (noisy - sigma * noise) / (1 - sigma)
