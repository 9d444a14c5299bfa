"""Prompt files, and the reproducible order in which a run uses their prompts."""

import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from srpo_ray.data.prompt_formats import BLANKS, COLUMNS, Broken, prompt_column, read_entries
from srpo_ray.data.text_files import TextFileError
from srpo_ray.flow import generator

EMBEDDED = ("small_world:train", "small_world:validation", "small_world:test")

_UNUSABLE = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff]")
"""Control characters except white space, and surrogates, which JSON can contain unpaired."""

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 60


@dataclass(frozen=True)
class PromptFile:
    """Prompts of a file, with counts of empty and repeated entries."""

    source: str
    prompts: list[str]
    """Prompts in file order, without surrounding blanks."""
    empty: int = 0
    """Number of entries without text, which are skipped."""

    @property
    def repeated(self) -> int:
        """Number of repetitions of earlier prompts; they are kept, so such prompts are trained on more often."""
        return len(self.prompts) - len(set(self.prompts))

    @property
    def note(self) -> str | None:
        """Note for the user; None if there is none."""
        parts = [f"{self.empty} empty entries left out"] * bool(self.empty)
        parts += [f"{self.repeated} repeated prompts kept"] * bool(self.repeated)
        return f"{self.source}: {len(self.prompts)} prompts, {', '.join(parts)}" if parts else None


def load_prompts(source: str, key: str = "data.prompts") -> list[str]:
    """Return the prompts of a file; see `read_prompts`."""
    return read_prompts(source, key).prompts


def read_prompts(source: str, key: str = "data.prompts", columns: Sequence[str] = COLUMNS) -> PromptFile:
    """Read prompts, in any language, from one of these formats.

    A .txt file has one prompt per line; .json is a list of texts or objects; .jsonl has one text or object per line;
    .csv, .tsv and .parquet are tables. In objects and tables the prompt is under `prompt`, else `caption`, else `text`,
    ignoring case and surrounding blanks. Text files are UTF-8, or UTF-16 or UTF-32 with a byte order mark.

    Args:
        source: Path of the file, or `small_world:train`, `small_world:validation` or `small_world:test`.
        key: Config key of the source, for messages.
        columns: Other names of the key or column with the prompts, in lower case, in order of precedence.

    Raises:
        ValueError: If the file cannot be read, has another format, has entries without a usable text, or is empty.
    """
    if source in EMBEDDED:
        from srpo_ray.small_world import prompts as embedded

        return PromptFile(source, embedded.split_prompts(embedded.SPLITS[EMBEDDED.index(source)]))
    try:
        entries = read_entries(Path(source), columns)
    except OSError as error:
        raise ValueError(
            f"{key}: expected a readable prompt file or one of {', '.join(EMBEDDED)}, got {source!r} ({error});"
            f" check the path (working folder: {Path.cwd()})"
        ) from error
    except TextFileError as error:
        raise ValueError(f"{key}: {source}: {error}") from error
    texts = check_texts(entries, source, key, columns)
    prompts = [text for text in texts if text]
    if not prompts:
        raise ValueError(f"{key}: expected at least one prompt in {source}, got an empty file; add prompts, one a line")
    return PromptFile(source, prompts, len(texts) - len(prompts))


def check_texts(entries: Sequence[object], source: str, key: str, columns: Sequence[str] = COLUMNS) -> list[str]:
    """Extract the prompts of entries, without surrounding blanks; empty ones are kept.

    Args:
        entries: Texts, objects, or `Broken`.
        source: Name of the file, for messages.
        key: Config key or option of the source, for messages.
        columns: Names of the key with the prompt, in lower case, in order of precedence.

    Raises:
        ValueError: If entries have no usable text; the message counts all and names the first three.
    """
    found = [_find_prompt(entry, columns) for entry in entries]
    broken = [f"entry {i + 1} ({text.reason})" for i, text in enumerate(found) if isinstance(text, Broken)]
    if broken:
        raise ValueError(
            f"{key}: expected a text, or an object or row with {', '.join(columns)}, in every entry of {source}, got"
            f" {len(broken)} of {len(found)} without: {'; '.join(broken[:3])}{'; ...' if len(broken) > 3 else ''};"
            " fix these entries or rename their column"
        )
    return [text for text in found if isinstance(text, str)]


def caption_of(entry: object) -> str:
    """Extract the prompt of one text or object, without surrounding blanks; empty if the value is null or blank.

    Raises:
        TextFileError: If the entry has no usable text.
    """
    found = _find_prompt(entry, COLUMNS)
    if isinstance(found, Broken):
        raise TextFileError(f"expected a text, or an object with {', '.join(COLUMNS)}, got {found.reason}")
    return found


def _find_prompt(entry: object, columns: Sequence[str]) -> str | Broken:
    if isinstance(entry, Broken):
        return entry
    value = entry
    if isinstance(entry, Mapping):
        names = list(entry)
        try:
            column = prompt_column(names, columns)
        except TextFileError as error:
            return Broken(str(error))
        if column is not None and entry[names[column]] is None:
            return ""
        value = None if column is None else entry[names[column]]
    if not isinstance(value, str):
        return Broken(f"no text: {_shown(entry)}")
    unusable = _UNUSABLE.search(value)
    if unusable:
        return Broken(f"the character U+{ord(unusable[0]):04X}, which a text cannot contain: {_shown(value)}")
    return value.strip(BLANKS)


def _shown(value: object) -> str:
    # Truncates deep, long or recursive values, and escapes control characters for terminals.
    return _REPR.repr(value)[:100]


def prompt_indices(num_prompts: int, update: int, batch_size: int, seed: int) -> list[int]:
    """Select the prompts of one update's global batch: every prompt once per epoch, reshuffled in each epoch.

    Args:
        num_prompts: Number of prompts in the file.
        update: Index of the update, from 0.
        batch_size: Size of the global batch.
        seed: Seed of the run.

    Returns:
        `batch_size` indices. They are a function of the arguments only, so a resumed run continues with the same ones.
    """
    indices: list[int] = []
    position, end = update * batch_size, (update + 1) * batch_size
    while position < end:
        epoch, offset = divmod(position, num_prompts)
        order = torch.randperm(num_prompts, generator=generator(seed, "prompts", epoch))
        taken = order[offset : offset + end - position].tolist()
        indices += taken
        position += len(taken)
    return indices
