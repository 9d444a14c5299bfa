"""What every config section shares. Nothing here imports torch or ray, so checks and `--help` are instant."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One section of a run's config: frozen, unknown keys are errors, field docstrings are the help texts."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
