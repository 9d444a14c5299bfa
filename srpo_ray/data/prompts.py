"""Prompt files, and the reproducible order in which a run uses their prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch

from srpo_ray.data.prompt_entries import Row, columns_of, find_row, find_text
from srpo_ray.data.prompt_formats import COLUMNS, FURTHER_COLUMNS, Broken, read_entries
from srpo_ray.data.prompt_rows import PromptRows
from srpo_ray.data.text_files import TextFileError
from srpo_ray.flow import generator

EMBEDDED = ("small_world:train", "small_world:validation", "small_world:test")

Found = TypeVar("Found", str, Row)


@dataclass(frozen=True)
class PromptFile:
    """Prompts of a file, with counts of empty and repeated entries."""

    source: str
    rows: PromptRows
    """Rows in file order, their texts without surrounding blanks."""
    empty: int = 0
    """Number of entries without text, which are skipped."""
    given: Mapping[str, int] = field(default_factory=dict)
    """Further column of the file -> number of prompts that have a value there."""

    @property
    def prompts(self) -> list[str]:
        """Prompts in file order."""
        return self.rows.prompts

    @property
    def repeated(self) -> int:
        """Number of repetitions of earlier rows; they are kept, so such prompts are trained on more often."""
        return self.rows.repeated

    @property
    def note(self) -> str | None:
        """Note for the user; None if there is none."""
        parts = [f"{self.empty} empty entries left out"] * bool(self.empty)
        parts += [f"{self.repeated} repeated prompts kept"] * bool(self.repeated)
        parts += [f"{column} of {count}" for column, count in self.given.items()]
        return f"{self.source}: {len(self.prompts)} prompts, {', '.join(parts)}" if parts else None


def load_prompts(source: str, key: str = "data.prompts") -> list[str]:
    """Return the prompts of a file; see `read_prompts`."""
    return read_prompts(source, key).prompts


def read_prompts(source: str, key: str = "data.prompts", columns: Sequence[str] = COLUMNS) -> PromptFile:
    """Read prompts, in any language, from one of these formats.

    A .txt file has one prompt per line; .json is a list of texts or objects; .jsonl has one text or object per line;
    .csv, .tsv and .parquet are tables. In objects and tables the prompt is under `prompt`, else `caption`, else `text`,
    ignoring case and surrounding blanks. Further columns are `conditioning`, a text that the model reads in place of
    the prompt, and `positive_words` and `negative_words`: a list, or a text with commas between the words. A row
    without a value there has none of its own. Text files are UTF-8, or UTF-16 or UTF-32 with a byte order mark.

    Args:
        source: Path of the file, or `small_world:train`, `small_world:validation` or `small_world:test`.
        key: Config key of the source, for messages.
        columns: Other names of the key or column with the prompts, in lower case, in order of precedence.

    Raises:
        ValueError: If the file cannot be read, has another format, has entries without a usable text, or is empty.
    """
    if source in EMBEDDED:
        from srpo_ray.small_world import prompts as embedded

        return PromptFile(source, PromptRows.plain(embedded.split_prompts(embedded.SPLITS[EMBEDDED.index(source)])))
    further = [name for name in FURTHER_COLUMNS if name not in columns]
    try:
        entries = read_entries(Path(source), columns, further)
    except OSError as error:
        raise ValueError(
            f"{key}: expected a readable prompt file or one of {', '.join(EMBEDDED)}, got {source!r} ({error});"
            f" check the path (working folder: {Path.cwd()})"
        ) from error
    except TextFileError as error:
        raise ValueError(f"{key}: {source}: {error}") from error
    found = _checked([find_row(entry, columns, further) for entry in entries], source, key, columns)
    rows = [row for row in found if row.prompt]
    if not rows:
        raise ValueError(f"{key}: expected at least one prompt in {source}, got an empty file; add prompts, one a line")
    present = set().union(*(columns_of(entry, further) for entry in entries))
    return PromptFile(
        source,
        PromptRows(
            [row.prompt for row in rows], [row.conditioning or row.prompt for row in rows], [row.words for row in rows]
        ),
        len(found) - len(rows),
        {name: sum(name in row.given for row in rows) for name in further if name in present},
    )


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
    return _checked([find_text(entry, columns) for entry in entries], source, key, columns)


def _checked(found: Sequence[Found | Broken], source: str, key: str, columns: Sequence[str]) -> list[Found]:
    broken = [f"entry {i + 1} ({text.reason})" for i, text in enumerate(found) if isinstance(text, Broken)]
    if broken:
        raise ValueError(
            f"{key}: expected a text, or an object or row with {', '.join(columns)}, in every entry of {source}, got"
            f" {len(broken)} of {len(found)} without: {'; '.join(broken[:3])}{'; ...' if len(broken) > 3 else ''};"
            " fix these entries or rename their column"
        )
    return [text for text in found if not isinstance(text, Broken)]


def caption_of(entry: object) -> str:
    """Extract the prompt of one text or object, without surrounding blanks; empty if the value is null or blank.

    Raises:
        TextFileError: If the entry has no usable text.
    """
    found = find_text(entry, COLUMNS)
    if isinstance(found, Broken):
        raise TextFileError(f"expected a text, or an object with {', '.join(COLUMNS)}, got {found.reason}")
    return found


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
