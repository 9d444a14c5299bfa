"""What every config section shares. Nothing here imports torch or ray, so checks and `--help` are instant."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One section of a run's config: frozen, unknown keys are errors, field docstrings are the help texts."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class AlgorithmSection(Section):
    """What the config class of every algorithm shares; its `type` is the name that section `algorithm` is told by."""

    needs_image_gradient: ClassVar[bool] = True
    """Whether the loss needs the gradient of the rewards in the pictures."""
