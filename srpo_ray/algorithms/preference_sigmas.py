"""Sigmas of the points of judged images: stratified quantiles of a distribution, or of the sampler's sigmas."""

import torch
from torch import Tensor

from srpo_ray.config.algorithms.preference_parts import PointSigmas


def shifted(sigma: Tensor, shift: float) -> Tensor:
    """Shift sigmas to `h s / (1 + (h - 1) s)`; a shift of `1 / h` is the inverse."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def drawn_sigmas(section: PointSigmas, share: Tensor) -> Tensor:
    """Compute quantiles of a continuous distribution of sigma that is cut to its window.

    Args:
        section: Distribution, `logit_normal` or `uniform`.
        share: Quantiles wanted, `[B]` float64 in [0, 1].

    Returns:
        Sigmas `[B]` float64, increasing with the quantile.
    """
    # Rounding may leave the range of sigma, where the inverse of the logistic function is not defined.
    ends = shifted(torch.tensor(section.window, dtype=torch.float64), 1 / section.shift).clamp(0, 1)
    if section.type == "logit_normal":
        low, high = torch.special.ndtr((torch.logit(ends) - section.mean) / section.std).unbind()
        drawn = torch.sigmoid(section.mean + section.std * torch.special.ndtri(low + share * (high - low)))
    else:
        low, high = ends.unbind()
        drawn = low + share * (high - low)
    return shifted(drawn, section.shift)


def inside_window(section: PointSigmas, grid: Tensor) -> Tensor:
    """Return the sigmas of the sampler inside the window, from the lowest to the highest.

    Args:
        section: Distribution `grid`.
        grid: Sigmas of the sampler `[n + 1]`, from 1 to 0; the last one is never drawn.

    Raises:
        ValueError: If there is none.
    """
    low, high = section.window
    found = grid[:-1].flip(0)
    found = found[(found >= low) & (found <= high)]
    if not len(found):
        raise ValueError(
            f"expected sigmas of the grid inside algorithm.sigma.window = {list(section.window)}, got none among"
            f" {[round(each, 3) for each in grid[:-1].tolist()]}; widen the window or take more steps"
        )
    return found


def grid_sigmas(section: PointSigmas, share: Tensor, grid: Tensor) -> Tensor:
    """Compute quantiles of the sampler's sigmas inside the window, all equally likely.

    Args:
        section: Distribution `grid`.
        share: Quantiles wanted, `[B]` float64 in [0, 1).
        grid: Sigmas of the sampler `[n + 1]`, from 1 to 0; the last one is never drawn.

    Raises:
        ValueError: If no sigma of the sampler is inside the window.
    """
    found = inside_window(section, grid)
    return found[(share * len(found)).long().clamp(max=len(found) - 1)]
