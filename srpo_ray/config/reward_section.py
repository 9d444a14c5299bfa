"""Config fields that reward models of every type have."""

from typing import ClassVar, Literal

from pydantic import Field

from srpo_ray.config.base import Section

Fit = Literal["crop", "pad", "squash"]
"""Resize of an image that is not square: crop the long side, pad the short side with black, or stretch (`squash`)."""


class RewardModelSection(Section):
    """Fields of every reward model."""

    reads_text: ClassVar[bool] = True
    """True if the score depends on the text, which may be any. A relative reward needs that, because it is a difference
    of texts."""
    image_gradient: ClassVar[bool] = True
    """False if no score of this type is differentiable in the image."""
    repeatable: ClassVar[bool] = True
    """True if the files of the config determine the scores, so that those of the base model can be cached."""
    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    """Unique name of the model in metrics, messages and tables."""
    weight: float = 1.0
    """Factor of this model's score in the training reward; unused for held-out evaluators."""
    spread: float | None = Field(default=None, gt=0)
    """Standard deviation of the score over images of the same prompt; `rewards.normalize` divides by it, and
    `python -m srpo_ray.evaluation.reward_spread runs/NAME` prints it."""

    @property
    def compares_pairs(self) -> bool:
        """True if the model compares two images at once, and so has win rates that are not those of its scores."""
        return False
