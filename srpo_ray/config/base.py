"""What every config section shares. Nothing here imports torch or ray, so checks and `--help` are instant."""

import math
import re
import unicodedata
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

    prefix: ClassVar[str] = ""
    """Prefix of this config's keys on the command line, where they stand beside those of another config."""

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


_JOINERS = "\u200c\u200d"
"""Zero-width characters that Persian, Indic scripts and emoji write with."""
NAME_BYTES = 200
"""Longest name of a run in UTF-8; file systems take 255 bytes, and files and folders add to it."""


def _in_names(character: str) -> bool:
    if character.isascii():
        return character.isalnum() or character in "_.-"
    return unicodedata.category(character)[0] in "LMNS" or character in _JOINERS


def check_name(name: str) -> str:
    """Check a name that a folder is called by.

    Returns:
        The name in Unicode's normal form C, so that equal names are equal folders.

    Raises:
        ValueError: If it has other characters than letters, digits and symbols of any script and `_.-`, begins with
            another than a letter, a digit or a symbol, or is too long.
    """
    name = unicodedata.normalize("NFC", name)
    first = name[:1]
    if not first or first in "_.-" or unicodedata.category(first)[0] not in "LNS" or not all(map(_in_names, name)):
        raise ValueError(
            f"expected letters, digits and `_.-` of any script, a letter or digit first, got {name!r}, which a folder"
            " is called by; choose such a name"
        )
    if len(name.encode()) > NAME_BYTES:
        raise ValueError(f"expected at most {NAME_BYTES} bytes, got {len(name.encode())} in {name!r}; shorten the name")
    return name


Name = Annotated[str, AfterValidator(check_name)]
"""Name of a run, and of its folder."""


def folder_name(text: str) -> str:
    """A text as the name of a run and its folder: letters, digits and symbols of any script and `_.-`."""
    text = unicodedata.normalize("NFC", text)
    kept = "".join(character if _in_names(character) else "\0" for character in text)
    return re.sub(r"\0+", "_", kept).strip("_.-" + _JOINERS)


def check_names(names: Sequence[str]) -> None:
    """Refuse names that would share a folder.

    Raises:
        ValueError: If two names give the same folder, one gives none, or one is too long for a folder.
    """
    for name in names:
        # Runs of an experiment have a number or a seed in their names too.
        if len(name.encode()) > NAME_BYTES // 2:
            raise ValueError(
                f"expected names of at most {NAME_BYTES // 2} bytes, as folders are called by them, got"
                f" {len(name.encode())} in {name!r}; shorten it"
            )
    folders = [folder_name(name) for name in names]
    bad = [name for name, folder in zip(names, folders, strict=True) if not folder or folders.count(folder) > 1]
    if bad:
        raise ValueError(
            f"expected names that differ in their letters and digits, as folders are called by them, got"
            f" {', '.join(map(repr, bad))}; rename all but one"
        )
