"""Straight path between data and noise, `x = (1 - sigma) * clean + sigma * noise`, and its inverse."""

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
