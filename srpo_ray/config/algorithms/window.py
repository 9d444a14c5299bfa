"""The window of sigmas in which SRPO and Direct-Align take their step."""

from typing import ClassVar, Self

from pydantic import Field, model_validator

from srpo_ray.config.algorithms.base import AlgorithmSection, Needs
from srpo_ray.config.base import Scope
from srpo_ray.config.model import Shift


class WindowSection(AlgorithmSection):
    """Options that SRPO and Direct-Align share, arXiv 2509.06942; defaults of SRPO's released HPSv2.1 recipe."""

    needs: ClassVar[Needs] = Needs(images="optional", accepts_clean_images=True)
    timestep_window: tuple[int, int] = (5, 25)
    """First and last index of the `window_grid_steps` grid between which updates land; 0 is pure noise."""
    sigma_window: tuple[float, float] | None = None
    """The same window as sigmas, the noisier first, for example [0.96, 0.75]; replaces `timestep_window`."""
    window_grid_steps: int = Field(default=50, ge=2)
    """Steps of the sigma grid that `timestep_window` counts in."""
    window_points: int = Field(default=1000, ge=20)
    """Points of the even re-gridding of the window."""
    window_shift: Shift = 3.0
    """Shift of the sigma grid that `timestep_window` counts in; `resolution` and `scheduler` as in `rollout.shift`."""
    interpolation_strength: float = Field(default=0.9, gt=0, lt=1)
    """Share of the window that the model does not step over: a step has `int((1 - strength) * window_points) + 1`
    points, as in the release. The rest of the way to the clean image is the known noise's, which removes more than this
    share of the image's noise: 0.9 leaves the model 2.2 % in the default window."""
    sigma_stride: float | None = Field(default=None, gt=0, lt=1)
    """Length of a step in sigma, to the nearest of the window's points, such as 0.0215; replaces
    `interpolation_strength`, so that windows of different widths can be compared. At most half of the window."""
    landing: Scope = "per_sample"
    """Samples that land on one sigma: none (`per_sample`), all of a worker, or all of an update (`shared`)."""
    noise: Scope = "shared"
    """Rollouts that start from one noise: none (`per_sample`), all of a worker, or all of an update (`shared`)."""
    hinge: float = 0.7
    """Loss is `relu(hinge - reward)`; set it above the reward's range for a linear loss."""
    guidance_scale: float = Field(default=3.5, ge=0)
    """Guidance embedding of the transformer call that carries gradient."""

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
