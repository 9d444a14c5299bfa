"""Options of the sigma window of the gradient step in SRPO and Direct-Align."""

from typing import ClassVar, Self

from pydantic import Field, model_validator

from srpo_ray.config.algorithms.base import Needs
from srpo_ray.config.algorithms.query import QuerySection
from srpo_ray.config.base import Scope
from srpo_ray.config.model import Shift


class WindowSection(QuerySection):
    """Common options of SRPO and Direct-Align, arXiv 2509.06942; defaults of SRPO's released HPSv2.1 recipe."""

    needs: ClassVar[Needs] = Needs(images="optional", accepts_clean_images=True, accepts_approximate_rollouts=True)
    timestep_window: tuple[int, int] = (5, 25)
    """First and last index of the landing window, in a sigma grid of `window_grid_steps` steps; 0 is pure noise."""
    sigma_window: tuple[float, float] | None = None
    """Landing window as sigmas, the noisier first, for example [0.96, 0.75]; replaces `timestep_window`."""
    window_grid_steps: int = Field(default=50, ge=2)
    """Steps of the sigma grid that `timestep_window` indexes."""
    window_points: int = Field(default=1000, ge=20)
    """Number of evenly spaced points in the window."""
    window_shift: Shift = 3.0
    """Shift of the sigma grid that `timestep_window` indexes; `resolution` and `scheduler` as in `rollout.shift`."""
    interpolation_strength: float = Field(default=0.9, gt=0, lt=1)
    """Share of the window that the model's step does not cover, in (0, 1): a step has
    `int((1 - strength) * window_points) + 1` points, as in the release. The known noise removes the rest, which is more
    than this share of the image's noise: with 0.9 the model removes 2.2 % in the default window."""
    sigma_stride: float | None = Field(default=None, gt=0, lt=1)
    """Length of a step in sigma, rounded to the window's points, such as 0.0215; at most half of the window. It
    replaces `interpolation_strength`, so that windows of different widths can be compared."""
    landing: Scope = "per_sample"
    """Samples with the same landing sigma: none (`per_sample`), all of a worker, or all of an update (`shared`)."""
    noise: Scope = "shared"
    """Rollouts with the same initial noise: none (`per_sample`), all of a worker, or all of an update (`shared`)."""
    hinge: float = 0.7
    """Hinge of the loss `relu(hinge - reward)`; above the reward's range the loss is linear."""
    guidance_scale: float = Field(default=3.5, ge=0)
    """Guidance embedding of the transformer call with gradient."""

    @model_validator(mode="after")
    def _check_window(self) -> Self:
        first, last = self.timestep_window
        if not 0 <= first < last <= self.window_grid_steps:
            raise ValueError(
                "expected timestep_window [first, last] with 0 <= first < last <= window_grid_steps ="
                f" {self.window_grid_steps}, got [{first}, {last}]; index 0 is pure noise, a larger index is cleaner,"
                " so give the noisier end first"
            )
        if self.sigma_window and not 1 > self.sigma_window[0] > self.sigma_window[1] >= 0:
            raise ValueError(
                f"expected sigma_window [noisy, clean] with 1 > noisy > clean >= 0, got {list(self.sigma_window)};"
                " 1 is pure noise, where the clean image cannot be recovered, so give the noisier end first"
            )
        return self
