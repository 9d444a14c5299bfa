"""What every config section shares. Nothing here imports torch or ray, so checks and `--help` are instant."""

import re
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

Scope = Literal["shared", "per_worker", "per_sample"]
"""Which samples of an update share one random draw: all, those of one worker, or none."""


class Section(BaseModel):
    """One section of a run's config: frozen, unknown keys are errors, field docstrings are the help texts."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def folder_name(text: str) -> str:
    """A text as the name of a run and its folder: letters, digits and `_.-`."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("_.-")


def check_names(names: Sequence[str]) -> None:
    """Refuse names that would share a folder.

    Raises:
        ValueError: If two names give the same folder, or one gives none.
    """
    folders = [folder_name(name) for name in names]
    bad = [name for name, folder in zip(names, folders, strict=True) if not folder or folders.count(folder) > 1]
    if bad:
        raise ValueError(
            f"expected names that differ in their letters and digits, as folders are called by them, got"
            f" {', '.join(map(repr, bad))}; rename all but one"
        )


class AlgorithmSection(Section):
    """What the config class of every algorithm shares; its `type` is the name that section `algorithm` is told by."""

    needs_image_gradient: ClassVar[bool] = True
    """Whether the loss needs the gradient of the rewards in the pictures."""
    takes_images: ClassVar[bool] = False
    """Whether real pictures (`data.images`) can take the place of its rollouts."""
