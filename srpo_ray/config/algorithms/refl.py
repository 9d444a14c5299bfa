"""Options of ReFL.

The gradient goes through steps of the sampler, so section `rollout` determines their number, shift and guidance.
"""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.algorithms.base import Calls, Needs
from srpo_ray.config.algorithms.query import QuerySection


class ReFLConfig(QuerySection):
    """Reward feedback learning (ReFL), ImageReward, arXiv 2304.05977; defaults of its public FLUX settings."""

    code: ClassVar[str] = "srpo_ray.algorithms.refl:ReFL"
    needs: ClassVar[Needs] = Needs(images="optional", accepts_approximate_rollouts=True)
    keeps_rollout: ClassVar[bool] = True
    type: Literal["refl"] = "refl"
    late_share: float = Field(default=0.44, gt=0, le=1)
    """Share of the sampler's last steps from which the gradient step is drawn, in (0, 1]; 0.44 is 11 of 25."""
    hinge: float = 0.55
    """Hinge of the loss `relu(hinge - reward)`. The default is for HPSv2.1 and above its relative rewards too, which
    are near 0; for other rewards set it above their range."""

    start: Literal["noise", "image"] = "noise"
    """Start of the rollouts. `noise`: pure noise; `image` (ImageReFL, arXiv 2505.22569): real images of `data.images`,
    noised to the first of the late steps, so that the gradient step is on real layouts and an update has few calls."""
    plain_every: int | None = Field(default=None, ge=2)
    """With `start: image`, every such update starts from pure noise, as ReFL does; unset starts all from images."""

    @property
    def samples_for_images(self) -> bool:
        """True if rollouts start from noised real images."""
        return self.start == "image"

    def is_plain(self, update: int) -> bool:
        """Test whether an update, from 0, starts from pure noise."""
        return not self.samples_for_images or bool(self.plain_every and (update + 1) % self.plain_every == 0)

    def check_images(self, images: str | None, image_ratio: float) -> None:
        """Check that there are real images for all samples, or none, as `start` says."""
        if self.samples_for_images and not images:
            raise ValueError(
                "expected data.images with algorithm.start=image, got none; name real images, or set start to noise"
            )
        if images and not self.samples_for_images:
            raise ValueError(
                f"expected data.images to be unset with algorithm.type={self.type} and algorithm.start=noise, got"
                f" {images!r}; unset it, or set start to image"
            )
        if self.samples_for_images and image_ratio < 1:
            raise ValueError(
                f"expected data.image_ratio=1 with algorithm.start=image, got {image_ratio:g}; all samples of an update"
                " must have the same number of calls, so mix with algorithm.plain_every, which starts whole updates"
                " from noise"
            )

    @model_validator(mode="after")
    def _check_plain_every(self) -> Self:
        if self.plain_every and not self.samples_for_images:
            raise ValueError(
                f"expected plain_every only with start image, got {self.plain_every} with start noise, with which all"
                " updates are plain; remove it or set start to image"
            )
        return self

    def late_steps(self, num_steps: int) -> int:
        """Count the last sampler steps from which the gradient step is drawn."""
        return max(1, round(self.late_share * num_steps))

    def calls(self, num_steps: int) -> Calls:
        """Count a rollout up to one of the late steps, all equally likely, and one loss."""
        late = self.late_steps(num_steps)
        plain, from_image = num_steps - (late + 1) / 2, (late - 1) / 2
        share = 0.0 if self.samples_for_images else 1.0
        share = 1 / self.plain_every if self.plain_every else share
        return Calls(share * plain + (1 - share) * from_image)
