"""The window's sigmas as points, and the steps between them that SRPO and Direct-Align draw."""

from dataclasses import dataclass

from torch import Tensor

from srpo_ray.config.algorithms.window import WindowSection
from srpo_ray.config.base import Scope
from srpo_ray.flow import Draws, SigmaGrid, even_sigmas, window_sigmas

MARGIN = 5
"""Points at either end of the window that no update lands on."""


@dataclass(frozen=True)
class Window:
    """An even grid of sigmas, and the length of the steps that are taken between its points."""

    sigmas: Tensor
    """Sigmas `[N]`, float64, noisiest first."""
    stride: int
    """Points of a step that nothing cuts."""

    def __len__(self) -> int:
        return len(self.sigmas)

    def stride_at(self, draw: int) -> int:
        """Points between start and landing, cut where the step would leave the window.

        Args:
            draw: Landing point, counted from the window's clean end, in [MARGIN, N - MARGIN].
        """
        return min(self.stride, len(self) - draw, draw)

    def draw(self, scope: Scope, draws: Draws, renoising: int) -> list[int]:
        """Landing point of every sample, counted from the window's clean end, in [MARGIN, N - MARGIN].

        Args:
            scope: Samples of an update that land on one point.
            draws: Draws of the batch.
            renoising: Which landing of the update's rollout it is, from 0.
        """
        return draws.integers("landing", MARGIN, len(self) - MARGIN, renoising, scope=scope)


def build_window(config: WindowSection, grid: SigmaGrid) -> Window:
    """The window of a run.

    Args:
        config: Section `algorithm`.
        grid: Grids of the run's model, to count `timestep_window` in.

    Raises:
        ValueError: If `sigma_stride` is shorter than the window's points lie apart, or longer than half of the window.
    """
    if config.sigma_window:
        sigmas = even_sigmas(config.sigma_window, config.window_points)
    else:
        whole = grid(config.window_grid_steps, config.window_shift)
        sigmas = window_sigmas(config.timestep_window, whole, config.window_points)
    if config.sigma_stride is not None:
        return Window(sigmas, _points(config.sigma_stride, sigmas))
    # Without rounding, as in the release: 100 points for 0.9 of 1000, 200 for 0.8, but 301 for 0.7 and 501 for 0.5.
    return Window(sigmas, int((1 - config.interpolation_strength) * len(sigmas)) + 1)


def _points(sigma_stride: float, sigmas: Tensor) -> int:
    """Points of a step of a given length, at least 1 and at most half of the window, so that some step is not cut."""
    spacing = ((sigmas[0] - sigmas[-1]) / (len(sigmas) - 1)).item()
    points = round(sigma_stride / spacing)
    if not 1 <= points <= len(sigmas) // 2:
        raise ValueError(
            f"algorithm.sigma_stride: expected {spacing:.2g} (the distance of two points) to"
            f" {len(sigmas) // 2 * spacing:.4f} (half of the window, which is sigma {sigmas[0].item():.4f} to"
            f" {sigmas[-1].item():.4f}), got {sigma_stride:g}; take another step, a wider window or other window_points"
        )
    return points
