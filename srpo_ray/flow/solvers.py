"""Solvers of the flow's ODE of higher order than Euler's."""

import math

from torch import Tensor


def dpm_solver_step(
    x: Tensor, clean: Tensor, sigma: float, sigma_next: float, before: tuple[Tensor, float] | None = None
) -> Tensor:
    """Compute one step of DPM-Solver++(2M), which extrapolates the clean image from the last two points.

        D = clean + h / (2 * h_before) * (clean - clean_before)
        x_next = sigma_next / sigma * x - (1 - sigma_next) * (exp(-h) - 1) * D

    h is the step's length in `log((1 - sigma) / sigma)`. Without a point before, and in the step to sigma 0, `D` is
    `clean`, which gives the Euler step.

    Args:
        x: Point at `sigma`, `[B, ...]`.
        clean: Clean image that the model predicts at `x`: `x - sigma * velocity`.
        sigma: Noise level of `x`, in (0, 1].
        sigma_next: Noise level of the result, in [0, sigma).
        before: Clean image that the model predicted at the previous point, and the sigma of that point.

    Returns:
        Point at `sigma_next`, of the shape of `x`.

    Source: arXiv 2211.01095, algorithm 2, with the signal 1 - sigma of rectified flow.
    """
    estimate = clean
    if before is not None and sigma_next > 0:
        clean_before, sigma_before = before
        length = _log_ratio(sigma_next) - _log_ratio(sigma)
        weight = length / (2 * (_log_ratio(sigma) - _log_ratio(sigma_before)))
        estimate = clean + weight * (clean - clean_before)
    gain = (1 - sigma_next) - sigma_next * (1 - sigma) / sigma
    return sigma_next / sigma * x + gain * estimate


def _log_ratio(sigma: float) -> float:
    """Return the logarithm of signal to noise; minus infinity for pure noise."""
    return math.log((1 - sigma) / sigma) if sigma < 1 else -math.inf
