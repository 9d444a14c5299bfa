"""Config section of a reward's own Python environment."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from srpo_ray.config.base import Section
from srpo_ray.config.home import HomePath

Requirement = Annotated[str, Field(pattern=r"^[^\s-]")]
"""Requirement of pip, such as `hpsv3==1.0.0`, or a local file; no option of pip."""


class EnvironmentSection(Section):
    """Python environment of a custom reward whose packages conflict with those of the project."""

    packages: tuple[Requirement, ...] = ()
    """Requirements that pip installs, once per node, beside the packages of this project's environment, such as
    `[transformers==4.45.2]`; pip's options come from its own configuration and its environment variables."""
    python: HomePath | None = Field(default=None, min_length=1)
    """Interpreter of an existing environment with torch and numpy, such as `/opt/hpsv3/bin/python`, on every node."""

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if bool(self.packages) == bool(self.python):
            got = "both" if self.python else "neither"
            raise ValueError(
                f"expected either packages, which are installed for the Python of this project, or python, an"
                f" environment of your own, got {got}; to combine them, install the packages into that environment"
            )
        return self
