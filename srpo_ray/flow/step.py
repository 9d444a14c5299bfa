"""Moves along the flow."""

from torch import Tensor

from srpo_ray.flow.path import per_sample


def euler_step(x: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """One Euler step of `dx = velocity * dsigma`, towards data or towards noise.

    Args:
        x: Point at `sigma`, `[B, ...]`.
        velocity: Model's `noise - clean` at `x`, of the same shape.
        sigma: Where `x` is, `[B]`.
        sigma_next: Where to go, `[B]`; below `sigma` denoises, above it inverts.
    """
    return x + per_sample(sigma_next - sigma, x) * velocity
