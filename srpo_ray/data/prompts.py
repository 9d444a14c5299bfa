"""Prompt files, and the order in which a run goes through them."""

import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from srpo_ray.data.prompt_formats import BLANKS, COLUMNS, Broken, prompt_column, read_entries
from srpo_ray.data.text_files import TextFileError
from srpo_ray.flow import generator

EMBEDDED = ("small_world:train", "small_world:test")

_UNUSABLE = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff]")
"""Control characters that are no white space, and surrogates, of which JSON can have one without the other."""

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 60


@dataclass(frozen=True)
class PromptFile:
    """The prompts of a file, and what else was in it."""

    source: str
    prompts: list[str]
    """In file order, without surrounding blanks."""
    empty: int = 0
    """Entries without text, which are left out."""

    @property
    def repeated(self) -> int:
        """Prompts that came before; they are kept, so they are trained on more often."""
        return len(self.prompts) - len(set(self.prompts))

    @property
    def note(self) -> str | None:
        """What a person should know; None where there is nothing."""
        parts = [f"{self.empty} empty entries left out"] * bool(self.empty)
        parts += [f"{self.repeated} repeated prompts kept"] * bool(self.repeated)
        return f"{self.source}: {len(self.prompts)} prompts, {', '.join(parts)}" if parts else None


def load_prompts(source: str, key: str = "data.prompts") -> list[str]:
    """The prompts of a file; see `read_prompts`."""
    return read_prompts(source, key).prompts


def read_prompts(source: str, key: str = "data.prompts") -> PromptFile:
    """Read prompts, in any language, from one of these formats.

    .txt has one a line; .json is a list of texts or objects; .jsonl has one of those a line; .csv, .tsv and .parquet
    are tables. In objects and tables the prompt is `prompt`, else `caption`, else `text`, whatever the case and the
    blanks around it. Files of text are UTF-8, or UTF-16 or UTF-32 with a byte order mark.

    Args:
        source: Path of the file, `small_world:train` or `small_world:test`.
        key: Config key that the source came from, for messages.

    Raises:
        ValueError: If the file cannot be read, has another format, entries that are no prompts, or no prompt at all.
    """
    if source in EMBEDDED:
        from srpo_ray.small_world import prompts as embedded

        return PromptFile(source, embedded.train_prompts() if source == EMBEDDED[0] else embedded.test_prompts())
    try:
        entries = read_entries(Path(source))
    except OSError as error:
        raise ValueError(
            f"{key}: expected a readable prompt file or one of {', '.join(EMBEDDED)}, got {source!r} ({error});"
            f" check the path (working folder: {Path.cwd()})"
        ) from error
    except TextFileError as error:
        raise ValueError(f"{key}: {source}: {error}") from error
    texts = check_texts(entries, source, key)
    prompts = [text for text in texts if text]
    if not prompts:
        raise ValueError(f"{key}: expected at least one prompt in {source}, got an empty file; add prompts, one a line")
    return PromptFile(source, prompts, len(texts) - len(prompts))


def check_texts(entries: Sequence[object], source: str, key: str) -> list[str]:
    """The prompts of entries, without surrounding blanks; empty ones are kept.

    Args:
        entries: Texts, objects, or `Broken`.
        source: Where they come from, for messages.
        key: Config key or option that the source came from, for messages.

    Raises:
        ValueError: If entries are no prompts; all are counted and the first three named.
    """
    found = [_find_prompt(entry) for entry in entries]
    broken = [f"entry {i + 1} ({text.reason})" for i, text in enumerate(found) if isinstance(text, Broken)]
    if broken:
        raise ValueError(
            f"{key}: expected a text, or an object or row with {', '.join(COLUMNS)}, in every entry of {source}, got"
            f" {len(broken)} of {len(found)} without: {'; '.join(broken[:3])}{'; ...' if len(broken) > 3 else ''};"
            " fix these entries or rename their column"
        )
    return [text for text in found if isinstance(text, str)]


def caption_of(entry: object) -> str:
    """The prompt of one text or object, without surrounding blanks; empty where its place is empty.

    Raises:
        TextFileError: If there is no usable text in it.
    """
    found = _find_prompt(entry)
    if isinstance(found, Broken):
        raise TextFileError(f"expected a text, or an object with {', '.join(COLUMNS)}, got {found.reason}")
    return found


def _find_prompt(entry: object) -> str | Broken:
    if isinstance(entry, Broken):
        return entry
    value = entry
    if isinstance(entry, Mapping):
        names = list(entry)
        try:
            column = prompt_column(names)
        except TextFileError as error:
            return Broken(str(error))
        if column is not None and entry[names[column]] is None:
            return ""
        value = None if column is None else entry[names[column]]
    if not isinstance(value, str):
        return Broken(f"no text: {_shown(entry)}")
    unusable = _UNUSABLE.search(value)
    if unusable:
        return Broken(f"the character U+{ord(unusable[0]):04X}, which no text has: {_shown(value)}")
    return value.strip(BLANKS)


def _shown(value: object) -> str:
    # Of deep, long or endless values the beginning; control characters are escaped, so that a terminal shows them.
    return _REPR.repr(value)[:100]


def prompt_indices(num_prompts: int, update: int, batch_size: int, seed: int) -> list[int]:
    """Prompts of one update's global batch: every prompt once per epoch, shuffled anew in each epoch.

    Args:
        num_prompts: Prompts in the file.
        update: Update, from 0.
        batch_size: Size of the global batch.
        seed: Seed of the run.

    Returns:
        `batch_size` indices; they depend on the arguments only, so a resumed run goes on where it was.
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
