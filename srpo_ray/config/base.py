"""What every config section shares. Nothing here imports torch or ray, so checks and `--help` are instant."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

Scope = Literal["shared", "per_worker", "per_sample"]
"""Which samples of an update share one random draw: all, those of one worker, or none."""


def _whole_above_one(count: float) -> float:
    if count > 1 and count % 1:
        raise ValueError(
            f"expected a whole number of GPUs or a fraction of one, as Ray assigns them, got {count:g}; round it"
        )
    return count


Resources = dict[str, Annotated[float, Field(ge=0)]]
"""Amounts of custom Ray resources by their names, at least 0."""
NumGpus = Annotated[float, Field(ge=0), AfterValidator(_whole_above_one)]
"""GPUs of one Ray process: a whole number, or a fraction of one."""
LONGEST_WAIT_S = 1e6
"""Longest timeout, 11 days: the operating system's timers take no arbitrary number of seconds."""


_NOT_PRINTABLE = re.compile("[^\\t\\n\\r\\x20-\\x7e\\x85\\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters outside `c-printable` of YAML 1.2.2, section 5.1: control characters and halves of surrogate pairs."""


class Section(BaseModel):
    """One section of a run's config: frozen, unknown keys are errors, field docstrings are the help texts.

    Numbers are finite and texts printable in every field, whatever its type.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @field_validator("*", mode="after")
    @classmethod
    def _check_value(cls, value: Any) -> Any:
        check_plain(value)
        return value


def check_plain(value: Any) -> None:
    """Refuse what a config can hold nowhere, in a value or inside lists and mappings.

    Raises:
        ValueError: If a number is NaN or infinite, or a text has a character that is not printable.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            check_plain(key)
            check_plain(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            check_plain(inner)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value}; give a number")
    elif isinstance(value, str) and (found := _NOT_PRINTABLE.search(value)):
        raise ValueError(
            f"expected text without control characters, got {value!r}, which has U+{ord(found[0]):04X}; remove it"
        )


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
