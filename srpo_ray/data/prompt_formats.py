"""Readers of the prompt file formats, and the names of the keys or columns that are read."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srpo_ray.data.text_files import TextFileError, parse_json, read_text_file, split_lines

COLUMNS = ("prompt", "caption", "text")
"""Names of the key or column with the prompt, case-insensitive, in order of precedence."""

CONDITIONING, POSITIVE_WORDS, NEGATIVE_WORDS = FURTHER_COLUMNS = ("conditioning", "positive_words", "negative_words")
"""Names of further keys or columns, case-insensitive."""

BLANKS = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\ufeff"
"""White space, and the byte order mark, which also occurs inside files that were concatenated."""


MakeObject = Callable[[Sequence[tuple[str, object]]], object]
"""Conversion of the pairs of key and value of a JSON object."""


@dataclass(frozen=True)
class Broken:
    """Entry without a usable prompt."""

    reason: str


def prompt_column(names: Sequence[object], columns: Sequence[str] = COLUMNS) -> int | None:
    """Return the index of the key or column with the prompts, ignoring case, surrounding blanks and byte order marks.

    Args:
        names: Names of keys or columns.
        columns: Names to look for, in lower case, in order of precedence.

    Returns:
        The index; None if no name matches.

    Raises:
        TextFileError: If two names match.
    """
    plain = [str(name).strip(BLANKS).lower() for name in names]
    column = next((column for column in columns if column in plain), None)
    if column is None:
        return None
    same = [str(name)[:40] for name, known in zip(names, plain, strict=True) if known == column]
    if len(same) > 1:
        got = ", ".join(map(repr, same[:4]))
        raise TextFileError(f"expected one {column}, got {len(same)} of that name: {got}; rename or remove the others")
    return plain.index(column)


def _find_columns(names: Sequence[object], columns: Sequence[str], further: Sequence[str]) -> list[int] | None:
    """Return the index of the prompts' column, then those of the further columns that exist; None without prompts."""
    first = prompt_column(names, columns)
    others = [prompt_column(names, (name,)) for name in further]
    return None if first is None else [first, *(index for index in others if index is not None)]


def read_entries(path: Path, columns: Sequence[str] = COLUMNS, further: Sequence[str] = ()) -> Sequence[object]:
    """Read the entries of a prompt file: texts, objects, or `Broken`.

    Args:
        path: The file.
        columns: Names of the key or column with the prompts, in lower case, in order of precedence.
        further: Names of further columns. Rows of a table that has one are objects, otherwise texts.

    Raises:
        OSError: If the file cannot be opened.
        TextFileError: If the content does not match the suffix, or there is no column of prompts.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise TextFileError(f"expected a file of type {', '.join(_READERS)}; convert it to one prompt a line")
    return reader(path, columns, further)


def _read_lines(path: Path, *_: Sequence[str]) -> list[str]:
    return split_lines(read_text_file(path))


def _read_json(path: Path, columns: Sequence[str], further: Sequence[str]) -> list[object]:
    text = read_text_file(path)
    entries = parse_json(text, _object_with(columns, further))
    if not isinstance(entries, list):
        raise TextFileError(f"expected a JSON list, got {text.strip()[:60]!r}; wrap it in [ ]")
    return entries


def _read_json_lines(path: Path, columns: Sequence[str], further: Sequence[str]) -> list[object]:
    make_object = _object_with(columns, further)
    return [_parse_line(line.strip(BLANKS), make_object) for line in _read_lines(path)]


def _parse_line(line: str, make_object: MakeObject) -> object:
    try:
        return parse_json(line, make_object) if line else ""
    except TextFileError as error:
        return Broken(f"{error}: {line[:60]!r}")


def _object_with(columns: Sequence[str], further: Sequence[str]) -> MakeObject:
    def make_object(items: Sequence[tuple[str, object]]) -> object:
        try:
            _find_columns([name for name, _ in items], columns, further)
        except TextFileError as error:
            return Broken(str(error))
        return dict(items)

    return make_object


def _read_table(path: Path, columns: Sequence[str], further: Sequence[str]) -> list[object]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    rows = _rows(read_text_file(path), delimiter)
    while rows and not rows[0][1]:
        del rows[0]
    if not rows:
        return []
    header = rows[0][1]
    found = _find_columns(header, columns, further)
    if found is None:
        raise TextFileError(f"{_no_column(header, columns)} and separate columns by {delimiter!r}")
    return [_cells(row, line, header, found) for line, row in rows[1:]]


def _rows(text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """Parse a table to rows, each with the number of its first line."""
    # Blanks before a text are ignored, so they are also allowed before its quotes.
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    rows, line = [], 1
    try:
        for row in reader:
            rows.append((line, row))
            line = reader.line_num + 1
    except csv.Error as error:
        raise TextFileError(
            f"expected CSV, got a syntax error in the row that begins on line {line}: {error}; enclose a text that has"
            ' quotes in quotes, and double each quote inside ("")'
        ) from error
    return rows


def _cells(row: Sequence[str], line: int, header: Sequence[str], found: Sequence[int]) -> object:
    if len(row) == len(header):
        return row[found[0]] if len(found) == 1 else {header[column]: row[column] for column in found}
    if not "".join(row).strip(BLANKS):
        return ""
    fields = f"{len(row)} fields under {len(header)} columns on line {line}"
    return Broken(f"{fields}, a text with the delimiter needs quotes: {' | '.join(row)[:60]!r}")


def _read_parquet(path: Path, columns: Sequence[str], further: Sequence[str]) -> list[object]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    # A missing or unreadable file fails here, so every later error is an error of the content.
    with path.open("rb") as file:
        try:
            return _parquet_columns(ParquetFile(file, page_checksum_verification=True), columns, further)
        except TextFileError:
            raise
        # Damage raises errors of Arrow, of the C++ library below it, or of decoding.
        except (pyarrow.ArrowException, OSError, ValueError, MemoryError, RuntimeError, LookupError) as error:
            raise TextFileError(f"expected Parquet, got no complete Parquet file: {error}; write it again") from error


def _parquet_columns(table: Any, columns: Sequence[str], further: Sequence[str]) -> list[object]:
    schema = table.schema_arrow
    found = _find_columns(schema.names, columns, further)
    if found is None:
        raise TextFileError(_no_column(schema.names, columns))
    names, kinds = [schema.names[column] for column in found], [schema.types[column] for column in found]
    for name, kind in zip(names, kinds, strict=True):
        lists = name.strip(BLANKS).lower() in (POSITIVE_WORDS, NEGATIVE_WORDS) and name != names[0]
        if not _holds_text(kind, lists=lists):
            expected = "texts or lists of texts" if lists else "texts"
            raise TextFileError(f"expected {expected} in the column {name!r}, got values of type {kind}; convert them")
    # One thread reads few columns as fast, and no thread is left running if a page is damaged.
    rows = table.read(columns=names, use_threads=False)
    return [text or "" for text in rows.column(names[0]).to_pylist()] if len(names) == 1 else rows.to_pylist()


def _holds_text(kind: Any, *, lists: bool = False) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _holds_text(kind.value_type)
    if lists and (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        return _holds_text(kind.value_type)
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind)


def any_of(columns: Sequence[str]) -> str:
    """List names of columns for a message: `prompt, caption or text`."""
    return " or ".join(filter(None, [", ".join(columns[:-1]), columns[-1]]))


def _no_column(names: Sequence[str], columns: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:8])
    got = f"{shown}{', ...' if len(names) > 8 else ''}"
    return f"expected a column {any_of(columns)}, got {got}; rename the prompts' column"


_READERS: dict[str, Callable[[Path, Sequence[str], Sequence[str]], Sequence[object]]] = {
    ".txt": _read_lines,
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".csv": _read_table,
    ".tsv": _read_table,
    ".parquet": _read_parquet,
}
