"""Sigma window of SRPO and Direct-Align: its points, and the random steps between them."""

from dataclasses import dataclass

from torch import Tensor

from srpo_ray.config.algorithms.window import WindowSection
from srpo_ray.config.base import Scope
from srpo_ray.flow import Draws, SigmaGrid, even_sigmas, window_sigmas

MARGIN = 5
"""Number of points at each end of the window without landings."""


@dataclass(frozen=True)
class Window:
    """Even grid of sigmas, and the length of the steps between its points."""

    sigmas: Tensor
    """Sigmas `[N]`, float64, noisiest first."""
    stride: int
    """Length of an unclipped step, in points."""

    def __len__(self) -> int:
        return len(self.sigmas)

    def stride_at(self, draw: int) -> int:
        """Compute the points between start and landing, clipped at the window's end.

        Args:
            draw: Landing point, counted from the window's clean end, in [MARGIN, N - MARGIN].
        """
        return min(self.stride, len(self) - draw, draw)

    def draw(self, scope: Scope, draws: Draws, renoising: int) -> list[int]:
        """Draw the landing point of every sample, counted from the window's clean end, in [MARGIN, N - MARGIN].

        Args:
            scope: Samples of an update with the same landing point.
            draws: Draws of the batch.
            renoising: Index of the landing of the update's rollout, from 0.
        """
        return draws.integers("landing", MARGIN, len(self) - MARGIN, renoising, scope=scope)


def build_window(config: WindowSection, grid: SigmaGrid) -> Window:
    """Build the window of a run.

    Args:
        config: Section `algorithm`.
        grid: Sigma grids of the run's model, which `timestep_window` indexes.

    Raises:
        ValueError: If `sigma_stride` is below the distance of the window's points, or above half of the window.
    """
    if config.sigma_window:
        sigmas = even_sigmas(config.sigma_window, config.window_points)
    else:
        whole = grid(config.window_grid_steps, config.window_shift)
        sigmas = window_sigmas(config.timestep_window, whole, config.window_points)
    if config.sigma_stride is not None:
        return Window(sigmas, _points(config.sigma_stride, sigmas))
    # No rounding, as in the release: 100 points for 0.9 of 1000, 200 for 0.8, but 301 for 0.7 and 501 for 0.5.
    return Window(sigmas, int((1 - config.interpolation_strength) * len(sigmas)) + 1)


def _points(sigma_stride: float, sigmas: Tensor) -> int:
    """Convert a step length to points, at least 1 and at most half of the window, so that some step is not clipped."""
    spacing = ((sigmas[0] - sigmas[-1]) / (len(sigmas) - 1)).item()
    points = round(sigma_stride / spacing)
    if not 1 <= points <= len(sigmas) // 2:
        raise ValueError(
            f"algorithm.sigma_stride: expected {spacing:.2g} (the distance of two points) to"
            f" {len(sigmas) // 2 * spacing:.4f} (half of the window, which is sigma {sigmas[0].item():.4f} to"
            f" {sigmas[-1].item():.4f}), got {sigma_stride:g}; choose another step, window or window_points"
        )
    return points
