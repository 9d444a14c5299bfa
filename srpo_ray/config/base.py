"""Base class and common types of config sections. No torch and no Ray, so checks and `--help` are fast."""

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

Scope = Literal["shared", "per_worker", "per_sample"]
"""Samples of an update that share one random draw: all, those of one worker, or none."""


def _whole_above_one(count: float) -> float:
    if count > 1 and count % 1:
        raise ValueError(
            f"expected an integer number of GPUs or a fraction of one GPU, as Ray requires, got {count:g}; round it"
        )
    return count


Resources = dict[str, Annotated[float, Field(ge=0)]]
"""Custom Ray resources: name -> amount, at least 0."""
NumGpus = Annotated[float, Field(ge=0), AfterValidator(_whole_above_one)]
"""GPUs of one Ray process: an integer, or a fraction of one GPU."""
LONGEST_WAIT_S = 1e6
"""Maximum timeout, 11 days: the operating system's timers are limited."""


_NOT_PRINTABLE = re.compile("[^\\t\\n\\r\\x20-\\x7e\\x85\\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters outside `c-printable` of YAML 1.2.2, section 5.1: control characters and halves of surrogate pairs."""


class Section(BaseModel):
    """Base class of the sections of a config: frozen, unknown keys are errors, field docstrings are the help texts.

    In every field, numbers must be finite and texts printable.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    prefix: ClassVar[str] = ""
    """Prefix of this config's keys on the command line, where they stand beside those of another config."""

    @field_validator("*", mode="after")
    @classmethod
    def _check_value(cls, value: Any) -> Any:
        check_plain(value)
        return value


def check_plain(value: Any) -> None:
    """Check a value, including inside lists and mappings, for what no config may contain.

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


_JOINERS = "\u200c\u200d"
"""Zero-width characters that Persian, Indic scripts and emoji use."""
NAME_BYTES = 200
"""Maximum length of a run's name in UTF-8 bytes; file systems allow 255, and file names extend the run's name."""


def _in_names(character: str) -> bool:
    if character.isascii():
        return character.isalnum() or character in "_.-"
    return unicodedata.category(character)[0] in "LMNS" or character in _JOINERS


def check_name(name: str) -> str:
    """Check a name that becomes the name of a folder.

    Returns:
        Name in Unicode normal form C, so that equal names are equal folders.

    Raises:
        ValueError: If it contains characters other than letters, digits and symbols of any script and `_.-`, starts
            with `_`, `.` or `-`, or is too long.
    """
    name = unicodedata.normalize("NFC", name)
    first = name[:1]
    if not first or first in "_.-" or unicodedata.category(first)[0] not in "LNS" or not all(map(_in_names, name)):
        raise ValueError(
            f"expected letters, digits and `_.-` of any script, a letter or digit first, got {name!r}; choose such a"
            " name, as it becomes the name of a folder"
        )
    if len(name.encode()) > NAME_BYTES:
        raise ValueError(f"expected at most {NAME_BYTES} bytes, got {len(name.encode())} in {name!r}; shorten the name")
    return name


Name = Annotated[str, AfterValidator(check_name)]
"""Name of a run, and of its folder."""


def folder_name(text: str) -> str:
    """Convert a text to the name of a run and its folder: letters, digits and symbols of any script and `_.-`."""
    text = unicodedata.normalize("NFC", text)
    kept = "".join(character if _in_names(character) else "\0" for character in text)
    return re.sub(r"\0+", "_", kept).strip("_.-" + _JOINERS)


def check_names(names: Sequence[str]) -> None:
    """Check that names map to different folders.

    Raises:
        ValueError: If two names map to the same folder, a name maps to no folder, or is too long.
    """
    for name in names:
        # Runs of an experiment have a number or a seed in their names too.
        if len(name.encode()) > NAME_BYTES // 2:
            raise ValueError(
                f"expected names of at most {NAME_BYTES // 2} bytes, as they become names of folders, got"
                f" {len(name.encode())} in {name!r}; shorten it"
            )
    folders = [folder_name(name) for name in names]
    bad = [name for name, folder in zip(names, folders, strict=True) if not folder or folders.count(folder) > 1]
    if bad:
        raise ValueError(
            f"expected names that differ in their letters and digits, as they become names of folders, got"
            f" {', '.join(map(repr, bad))}; rename all but one"
        )
