"""Tables and lists of public sets of judged images, read row by row."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from srpo_ray.data.pair_rows import OtherFormatError, Row
from srpo_ray.data.text_files import parse_json, read_text_file

_BATCH = 64
"""Rows of a table in memory at a time, with their images."""


def table_rows(file: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Row]:
    """Read the rows of a Parquet table.

    Raises:
        OtherFormatError: If a column is missing.
    """
    import pyarrow.parquet

    table = pyarrow.parquet.ParquetFile(file)
    present = table.schema_arrow.names
    if missing := [name for name in columns if name not in present]:
        raise OtherFormatError(f"a table without {', '.join(missing)}")
    wanted = [*columns, *(name for name in optional if name in present)]
    for batch in table.iter_batches(batch_size=_BATCH, columns=wanted):
        yield from batch.to_pylist()


def json_rows(file: Path, *keys: Sequence[str]) -> Iterator[Row]:
    """Read the objects of a JSON list; an entry that is no object becomes an empty one.

    Args:
        file: JSON file.
        keys: Keys of the set's entries, one group for each form that they have.

    Raises:
        OtherFormatError: If the file has no list, or no entry of it has the keys of the set.
    """
    entries = parse_json(read_text_file(file))
    if not isinstance(entries, list):
        raise OtherFormatError("no list")
    rows = [dict(entry) if isinstance(entry, Mapping) else {} for entry in entries]
    if rows and not any(row.keys() >= set(group) for row in rows for group in keys):
        raise OtherFormatError(f"no entry with {' or '.join(', '.join(group) for group in keys)}")
    yield from rows


def csv_rows(file: Path, *columns: Sequence[str]) -> Iterator[Row]:
    """Read the rows of a CSV table. Cells beyond the columns have the key None.

    Args:
        file: CSV file with commas and a header, encoded as `read_text_file` accepts it.
        columns: Columns of the set, one group for each form that it has.

    Raises:
        OtherFormatError: If the header has no group of columns, or the file is not such a table.
        TextFileError: If the file is not text.
    """
    reader = csv.DictReader(io.StringIO(read_text_file(file), newline=""), strict=True)
    try:
        present = reader.fieldnames or []
        if not any({*group} <= {*present} for group in columns):
            raise OtherFormatError(f"a table without {' or '.join(', '.join(group) for group in columns)}")
        yield from reader
    except csv.Error as error:
        raise OtherFormatError(f"a row that cannot be read after line {reader.line_num} ({error})") from error


def ranked_groups(file: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Read a table or JSON list of ImageRewardDB, which has a row for each image, and group the images of a prompt.

    Yields:
        `prompt`, `image_path` and `rank` of each prompt, the last two as lists.

    Raises:
        OtherFormatError: As `table_rows` and `json_rows`.
    """
    rows = json_rows(file, columns) if file.suffix.lower() == ".json" else table_rows(file, columns)
    groups: dict[object, dict[str, Any]] = {}
    for row in rows:
        key = repr((row.get("prompt_id"), row.get("prompt")))
        group = groups.setdefault(key, {"prompt": row.get("prompt"), "image_path": [], "rank": []})
        for name in ("image_path", "rank"):
            group[name].append(row.get(name))
    yield from groups.values()
