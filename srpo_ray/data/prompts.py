"""Prompt files, and the order in which a run goes through them."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from srpo_ray.flow import generator

EMBEDDED = ("small_world:train", "small_world:test")

COLUMNS = ("prompt", "caption", "text")
"""Keys of an entry that a prompt is looked for under, whatever their case, in this order."""


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


@dataclass(frozen=True)
class _Broken:
    """An entry that its format cannot hold, and why."""

    reason: str

    def __str__(self) -> str:
        return self.reason


def load_prompts(source: str, key: str = "data.prompts") -> list[str]:
    """The prompts of a file; see `read_prompts`."""
    return read_prompts(source, key).prompts


def read_prompts(source: str, key: str = "data.prompts") -> PromptFile:
    """Read prompts, in any language, from one of these formats.

    .txt has one a line; .json is a list of texts or objects; .jsonl has one of those a line; .csv, .tsv and .parquet
    are tables. In objects and tables the prompt is `prompt`, else `caption`, else `text`, whatever the case.

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
        entries = _entries(Path(source), key)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{key}: expected a readable prompt file or one of {', '.join(EMBEDDED)}, got {source!r} ({error});"
            f" check the path (working folder: {Path.cwd()})"
        ) from error
    texts = [prompt_of(entry) for entry in entries]
    broken = [f"entry {i + 1} ({str(entries[i])[:100]})" for i, text in enumerate(texts) if text is None]
    if broken:
        raise ValueError(
            f"{key}: expected a text, or an object or row with {', '.join(COLUMNS)}, in every entry of {source}, got"
            f" {len(broken)} of {len(texts)} without: {'; '.join(broken[:3])}{'; ...' if len(broken) > 3 else ''};"
            " mend these entries or rename their column"
        )
    prompts = [text for text in texts if text]
    if not prompts:
        raise ValueError(f"{key}: expected at least one prompt in {source}, got an empty file; add prompts, one a line")
    return PromptFile(source, prompts, len(texts) - len(prompts))


def prompt_of(entry: object) -> str | None:
    """The prompt of a text, an object or a row, without surrounding blanks.

    Returns:
        `""` where there is a place for it with nothing in it; None if there is no such place, or no text in it.
    """
    value = entry
    if isinstance(entry, Mapping):
        found = {str(name).lower(): value for name, value in entry.items()}
        column = next((name for name in COLUMNS if name in found), None)
        if column and found[column] is None:
            return ""
        value = found[column] if column else None
    return value.strip() if isinstance(value, str) and _is_whole(value) else None


def _is_whole(text: str) -> bool:
    """Whether a text has characters only; JSON can hold half of a pair that stands for one."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _entries(path: Path, key: str) -> Sequence[object]:
    """What the file lists, each a text or a mapping."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(
            f"{key}: expected a file of type {', '.join(_READERS)}, got {path}; convert it to one prompt a line"
        )
    try:
        entries = reader(path)
    except (json.JSONDecodeError, csv.Error) as error:
        raise ValueError(
            f"{key}: expected {path.suffix[1:].upper()} in {path}, got a syntax error: {error}; mend the file"
        ) from error
    if not isinstance(entries, list):
        raise ValueError(f"{key}: expected a JSON list in {path}, got a {type(entries).__name__}; wrap it in [ ]")
    return entries


def _read_text(path: Path) -> str:
    # Some editors begin a file with a byte order mark.
    return path.read_text(encoding="utf-8-sig")


def _read_lines(path: Path) -> list[str]:
    # Not `splitlines`, which takes some characters inside of a text for the end of a line.
    lines = _read_text(path).split("\n")
    return lines if lines[-1] else lines[:-1]


def _read_json_lines(path: Path) -> list[object]:
    return [_parse_line(line) for line in _read_lines(path)]


def _parse_line(line: str) -> object:
    try:
        return json.loads(line) if line.strip() else ""
    except json.JSONDecodeError as error:
        return _Broken(f"no JSON: {error}: {line}")


def _read_table(path: Path) -> list[object]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            rows = list(reader)
        except csv.Error as error:
            raise csv.Error(f"{error} (line {reader.line_num})") from error
    header = rows[0] if rows else []
    return [_parse_row(header, row) for row in rows[1:]]


def _parse_row(header: list[str], row: list[str]) -> object:
    if row and len(row) != len(header):
        return _Broken(f"{len(row)} fields under {len(header)} columns, a text with the delimiter needs quotes: {row}")
    return dict(zip(header, row, strict=True)) if row else ""


def _read_parquet(path: Path) -> list[object]:
    import pyarrow
    import pyarrow.parquet

    try:
        columns = [name for name in pyarrow.parquet.read_schema(path).names if name.lower() in COLUMNS]
        return pyarrow.parquet.read_table(path, columns=columns or None).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise OSError(f"no whole Parquet file: {error}") from error


_READERS: dict[str, Callable[[Path], object]] = {
    ".txt": _read_lines,
    ".json": lambda path: json.loads(_read_text(path)),
    ".jsonl": _read_json_lines,
    ".csv": _read_table,
    ".tsv": _read_table,
    ".parquet": _read_parquet,
}


def prompt_indices(num_prompts: int, step: int, batch_size: int, seed: int) -> list[int]:
    """Prompts of one update's global batch: every prompt once per epoch, shuffled anew in each epoch.

    Args:
        num_prompts: Prompts in the file.
        step: Update, from 0.
        batch_size: Size of the global batch.
        seed: Seed of the run.

    Returns:
        `batch_size` indices; they depend on the arguments only, so a resumed run goes on where it was.
    """
    indices: list[int] = []
    position, end = step * batch_size, (step + 1) * batch_size
    while position < end:
        epoch, offset = divmod(position, num_prompts)
        order = torch.randperm(num_prompts, generator=generator(seed, "prompts", epoch))
        taken = order[offset : offset + end - position].tolist()
        indices += taken
        position += len(taken)
    return indices
