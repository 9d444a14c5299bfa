"""Options of algorithms that compare several images of each prompt."""

from typing import Self

from pydantic import Field, model_validator

from srpo_ray.config.algorithms.base import AlgorithmSection


class GroupSection(AlgorithmSection):
    """Size of a group, and how much of it one forward pass has."""

    group_size: int = Field(default=12, ge=2)
    """Images per prompt that are compared with each other; the update has this many times its batch size."""
    images_per_pass: int | None = Field(default=None, ge=1)
    """Images of one prompt in a forward pass, a divisor of `group_size`; unset takes the whole group. A forward pass
    has this many for each of its `training.micro_batch_size` prompts. Groups are compared as a whole, whichever passes
    and workers their parts were in."""

    @model_validator(mode="after")
    def _check_images_per_pass(self) -> Self:
        if self.images_per_pass and self.group_size % self.images_per_pass:
            raise ValueError(
                f"expected images_per_pass to divide group_size = {self.group_size}, got {self.images_per_pass};"
                " all forward passes must be of one size, so choose a divisor"
            )
        return self

    @property
    def passes_per_prompt(self) -> int:
        """Forward passes that a group is divided among."""
        return self.group_size // (self.images_per_pass or self.group_size)
