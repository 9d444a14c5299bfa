"""Options of anchors, losses that keep the trained model near other weights or near real images."""

from typing import Self

from pydantic import Field, model_validator

from srpo_ray.config.algorithms.roles import Role
from srpo_ray.config.base import Section


class AnchorSection(Section):
    """Weights of the anchors; all are 0 by default. Errors are mean squares over the elements of a velocity."""

    reference: float = Field(default=0.0, ge=0)
    """Weight of the squared distance between the velocities of the policy and of the base model, at least 0. It is the
    Kullback-Leibler divergence of the two up to a factor that depends on sigma. With LoRA it keeps no copy: the base
    model is that without adapters."""
    ema: float = Field(default=0.0, ge=0)
    """Weight of the squared distance to the velocity of the exponential moving average (`training.ema`), at least 0."""
    old: float = Field(default=0.0, ge=0)
    """Weight of the squared distance to the velocity of the old weights, at least 0; for algorithms with `old_decay`,
    which determines how fast the old weights follow."""
    data: float = Field(default=0.0, ge=0)
    """Weight of the flow-matching loss on real images (`data.images`), at least 0. FLUX.1-dev is distilled for guided
    images, so real images make its images pale; use small weights there, such as 0.01."""
    sigmas: tuple[float, float] = (0.02, 1.0)
    """Lowest and highest sigma of the points, in [0, 1], drawn uniformly for each image. Algorithms that compare
    velocities at points of their own (`awm`, `diffusion_nft`, `raft`, `crd`) use those instead."""

    @model_validator(mode="after")
    def _check_sigmas(self) -> Self:
        low, high = self.sigmas
        if not 0 < low < high <= 1:
            raise ValueError(
                f"expected sigmas of an anchor as two values with 0 < lowest < highest <= 1, got {low:g} and {high:g};"
                " give the lower one first"
            )
        return self

    @property
    def weights(self) -> dict[Role, float]:
        """Role -> weight, of the anchors to other weights that are on."""
        found: dict[Role, float] = {"reference": self.reference, "ema": self.ema, "old": self.old}
        return {role: weight for role, weight in found.items() if weight}

    @property
    def active(self) -> bool:
        """True if any anchor is on."""
        return bool(self.weights) or self.data > 0
