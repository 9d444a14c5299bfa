"""Options of algorithms that compare a group of images per prompt."""

from typing import Self

from pydantic import Field, model_validator

from srpo_ray.config.algorithms.query import QuerySection


def check_images_per_pass(group_size: int, images: int | None) -> None:
    """Check that forward passes divide a group equally.

    Args:
        group_size: Images per prompt.
        images: Images of a prompt in a forward pass; None has the whole group.

    Raises:
        ValueError: If they do not.
    """
    if images and group_size % images:
        raise ValueError(
            f"expected images_per_pass to divide group_size = {group_size}, got {images}; all forward passes must have"
            " the same size, so choose a divisor"
        )


class GroupSection(QuerySection):
    """Group size, and the part of a group in one forward pass."""

    group_size: int = Field(default=12, ge=2)
    """Images per prompt that are compared with each other; an update has `training.batch_size` times as many images."""
    images_per_pass: int | None = Field(default=None, ge=1)
    """Images of one prompt in a forward pass, a divisor of `group_size`; unset uses the whole group. A forward pass
    has this many images for each of its `training.micro_batch_size` prompts. Groups are always compared as a whole,
    independent of the passes and workers of their parts."""

    @model_validator(mode="after")
    def _check_images_per_pass(self) -> Self:
        check_images_per_pass(self.group_size, self.images_per_pass)
        return self

    @property
    def passes_per_prompt(self) -> int:
        """Number of forward passes per group."""
        return self.group_size // (self.images_per_pass or self.group_size)
