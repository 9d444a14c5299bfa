"""What every config section shares. Nothing here imports torch or ray, so checks and `--help` are instant."""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

Scope = Literal["shared", "per_worker", "per_sample"]
"""Which samples of an update share one random draw: all, those of one worker, or none."""


class Section(BaseModel):
    """One section of a run's config: frozen, unknown keys are errors, field docstrings are the help texts."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class AlgorithmSection(Section):
    """What the config class of every algorithm shares; its `type` is the name that section `algorithm` is told by."""

    needs_image_gradient: ClassVar[bool] = True
    """Whether the loss needs the gradient of the rewards in the pictures."""
    takes_images: ClassVar[bool] = False
    """Whether real pictures (`data.images`) can take the place of its rollouts."""
