"""Options that all forward-process methods share: points on the way from an image to noise, and old weights."""

from abc import abstractmethod
from typing import ClassVar, Self

from pydantic import Field, model_validator

from srpo_ray.config.algorithms.base import Calls, Needs, Role
from srpo_ray.config.algorithms.group import GroupSection
from srpo_ray.config.base import Section


class OldDecay(Section):
    """Decay of the old weights. After update u they keep the share `min(limit, ramp * max(0, u - start))`."""

    ramp: float = Field(default=0.001, ge=0)
    """Increase of the decay per update, at least 0."""
    limit: float = Field(default=0.5, ge=0, lt=1)
    """Maximum of the decay, in [0, 1); with 0 the old weights equal the policy's of the update before."""
    start: int = Field(default=0, ge=0)
    """Update from which the decay increases."""

    def kept(self, update: int) -> float:
        """Return the decay after an update, counted from 0."""
        return min(self.limit, self.ramp * max(0, update - self.start))


class ForwardProcessSection(GroupSection):
    """Base of methods that renoise finished images, and compare the velocity there with `noise - clean`.

    The sampler may be approximate: only the finished images and their rewards enter the loss.
    """

    needs: ClassVar[Needs] = Needs(reward="score", accepts_approximate_rollouts=True)
    anchors_itself: ClassVar[bool] = True
    keeps_old: ClassVar[bool] = True
    sampler: ClassVar[Role] = "policy"
    """Role that samples the images."""
    points: int | None = Field(default=4, ge=1)
    """Points per image, each with a call with gradient, at least 1. The first `grid_share` of the sampler's sigmas is
    divided into this many parts, and a sigma is drawn from each for every image; `null` takes all of them."""
    grid_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the sampler's sigmas, from the noisy end, in (0, 1], from which the points are drawn; the number of
    sigmas is rounded down."""
    optimizer_steps: int = Field(default=1, ge=1)
    """Optimizer steps per rollout, at least 1, among which the points of every image are divided; a divisor of their
    number. With 1, all images are the policy's own."""
    old_decay: OldDecay = OldDecay()
    """Decay of the old weights."""

    @property
    @abstractmethod
    def compared(self) -> tuple[Role, ...]:
        """Roles whose velocities the losses need, at every point."""

    @property
    def asked(self) -> tuple[Role, ...]:
        """`compared` and the roles of the anchors, each once."""
        return tuple(dict.fromkeys((*self.compared, *self.anchor.weights)))

    @property
    def phase_roles(self) -> tuple[Role, ...]:
        """Role of each phase of an update; the first one samples."""
        return tuple(dict.fromkeys((self.sampler, *self.asked)))

    @property
    def roles(self) -> frozenset[Role]:
        """Roles besides the policy that phases use with these settings."""
        return frozenset(self.phase_roles) - {"policy"}

    def sigmas_of_points(self, num_steps: int) -> int:
        """Count the sigmas of the sampler from which the points are drawn."""
        return max(1, int(self.grid_share * num_steps))

    def points_per_image(self, num_steps: int) -> int:
        """Count the points of an image."""
        return self.points or self.sigmas_of_points(num_steps)

    def calls(self, num_steps: int) -> Calls:
        """Count a rollout of every group, a call of each asked role at every point, then one loss per point."""
        points = self.points_per_image(num_steps)
        return Calls(
            num_steps,
            compared=points * len(self.asked),
            losses=points // self.optimizer_steps,
            images_per_prompt=self.group_size,
            passes_per_prompt=self.passes_per_prompt,
            phases=len(self.phase_roles),
            optimizer_steps=self.optimizer_steps,
            decodes=False,
            kept=1 + points * len(self.asked),
        )

    def check_rollout(self, num_steps: int) -> None:
        """Check that the sampler has enough sigmas, and that the optimizer steps divide the points."""
        found, points = self.sigmas_of_points(num_steps), self.points_per_image(num_steps)
        if points > found:
            raise ValueError(
                f"expected algorithm.points of at most {found}, the sampler's sigmas with rollout.num_steps={num_steps}"
                f" and algorithm.grid_share={self.grid_share:g}, got {points}; lower algorithm.points, or raise"
                " rollout.num_steps or algorithm.grid_share"
            )
        if points % self.optimizer_steps:
            raise ValueError(
                f"expected algorithm.optimizer_steps to divide the {points} points of an image, got"
                f" {self.optimizer_steps}; every optimizer step must have the same number of calls, so choose a divisor"
            )

    @model_validator(mode="after")
    def _check_data_anchor(self) -> Self:
        if self.anchor.data:
            raise ValueError(
                f"expected anchor.data = 0 with a forward-process method, got {self.anchor.data:g}; it trains on its"
                " own images only, so set anchor.reference, or train with srpo or direct_align"
            )
        return self
