"""Sigma grids, from noisy to clean. Sigma is the share of noise: 1 is pure noise, 0 is data."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

SigmaGrid = Callable[[int, float | Literal["resolution", "scheduler"]], Tensor]
"""Number of steps and shift -> sigmas `[num_steps + 1]`, float64, decreasing from 1 to 0."""


def shifted_sigmas(num_steps: int, shift: float) -> Tensor:
    """Compute the sampling grid `shift * t / (1 + (shift - 1) * t)` on even `t` from 1 to 0.

    Args:
        num_steps: Number of Euler steps, at least 1.
        shift: Shift; values above 1 put more steps at the noisy end, 1 gives an even grid.

    Returns:
        Sigmas `[num_steps + 1]`, float64, decreasing from 1 to 0.

    Raises:
        ValueError: If `num_steps` or `shift` is not positive.

    Source: the FLUX and SD3 samplers; SRPO uses the fixed shift 3.
    """
    if num_steps < 1 or shift <= 0:
        raise ValueError(f"expected num_steps >= 1 and shift > 0, got num_steps={num_steps} and shift={shift}")
    t = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
    return shift * t / (1 + (shift - 1) * t)


def numeric_grid(num_steps: int, shift: float | Literal["resolution", "scheduler"]) -> Tensor:
    """Compute the grid of a numeric shift; the other shifts depend on the model, see `models.sigma_grid`."""
    assert isinstance(shift, (int, float)), shift
    return shifted_sigmas(num_steps, shift)


def shift_at(shift: float | Literal["resolution"], num_tokens: int) -> float:
    """Return a shift as a number; `resolution` becomes FLUX's shift for images of `num_tokens` tokens."""
    return flux_shift(num_tokens) if shift == "resolution" else shift


def flux_shift(num_tokens: int) -> float:
    """Compute FLUX's resolution-dependent shift `exp(mu)`, with `mu` linear in the number of image tokens.

    `mu` is 0.5 at 256 tokens (256 px) and 1.15 at 4096 tokens (1024 px).

    Source: FLUX.1-dev's scheduler config.
    """
    return math.exp(0.5 + (num_tokens - 256) * (1.15 - 0.5) / (4096 - 256))


def window_sigmas(window: tuple[int, int], grid: Tensor, num_points: int) -> Tensor:
    """Compute an even grid of sigmas between two points of a sampling grid.

    Args:
        window: First (noisier) and last (cleaner) index of the grid, `0 <= first < last <= n`.
        grid: Sampling grid of n steps, `[n + 1]`.
        num_points: Number of points of the even grid.

    Returns:
        Sigmas `[num_points]`, float64, noisiest first; 0.9643 to 0.75 for (5, 25) of 50 steps at shift 3.

    Raises:
        ValueError: If the window is reversed or outside the grid.

    Source: SRPO, released settings.
    """
    first, last = window
    if not 0 <= first < last < len(grid):
        raise ValueError(f"expected a window with 0 <= first < last <= {len(grid) - 1}, got {window}")
    return even_sigmas((grid[first].item(), grid[last].item()), num_points)


def even_sigmas(window: tuple[float, float], num_points: int) -> Tensor:
    """Compute an even grid from the noisier to the cleaner end of a window, `[num_points]`, float64."""
    return torch.linspace(*window, num_points, dtype=torch.float64)
