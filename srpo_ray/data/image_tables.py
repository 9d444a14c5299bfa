"""Images in Parquet tables, with one row group in memory at a time."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from srpo_ray.data.image_listing import Listing
from srpo_ray.data.image_sources import Entry, fingerprint
from srpo_ray.data.prompt_formats import COLUMNS, prompt_column
from srpo_ray.data.prompts import caption_of
from srpo_ray.data.text_files import TextFileError
from srpo_ray.models.content_hash import content_hash

PARQUET = ".parquet"
_IMAGE = "image"


def parquet_entries(listing: Listing, files: list[Path], key: str) -> list[Entry]:
    """List the images of tables with a column `image`, of bytes or of `bytes` and `path`, and a column of captions.

    Args:
        listing: Files of the source.
        files: Parquet files among them.
        key: Config key of the source, for messages.

    Raises:
        ValueError: If a file is not a Parquet table with such columns.
    """
    import pyarrow

    entries: list[Entry] = []
    for file in files:
        try:
            entries += _entries(file, f"{listing.name(file)} {content_hash(file)}", key)
        except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
            raise ValueError(
                f"{key}: expected a complete Parquet file, got {file} ({error}); copy it again or remove it"
            ) from error
    return entries


def _entries(file: Path, identity: str, key: str) -> list[Entry]:
    import pyarrow.parquet

    table = pyarrow.parquet.ParquetFile(file)
    column = _caption_column(table.schema_arrow, file, key)
    texts = table.read(columns=[column]).column(column).to_pylist()
    groups = _RowGroups(table, file)
    paths = _paths(table)
    places = [
        (group, row) for group in range(table.num_row_groups) for row in range(table.metadata.row_group(group).num_rows)
    ]
    entries: list[Entry] = []
    for number, (place, text) in enumerate(zip(places, texts, strict=True)):
        try:
            caption = "" if text is None else caption_of(text)
        except TextFileError as error:
            raise ValueError(
                f"{key}: expected a readable caption, got row {number} of {file} ({error}); correct or remove it"
            ) from error
        own = partial(_row_identity, f"{identity} {number}", file, paths[number] if paths else None)
        entries.append(Entry(f"{file}: row {number}", own, caption, partial(groups.read, *place)))
    return entries


def _paths(table: Any) -> list[str | None]:
    """Paths of images outside the table, one per row; empty without a field `path`."""
    import pyarrow.types

    kind = table.schema_arrow.field(_IMAGE).type
    if not pyarrow.types.is_struct(kind) or kind.get_field_index("path") < 0:
        return []
    column = table.read(columns=[f"{_IMAGE}.path"]).column(_IMAGE)
    return [row and row["path"] for row in column.to_pylist()]


def _row_identity(row: str, table: Path, path: str | None) -> str:
    """Identity of a row, with the content of the image file that it names."""
    beside = table.parent / str(path)
    if path is None or not beside.is_file():
        return row
    return f"{row} {fingerprint(beside, 0, beside.stat().st_size)}"


def _caption_column(schema: Any, file: Path, key: str) -> str:
    """Return the name of a table's caption column, and check the type of its images."""
    names = schema.names
    try:
        column = prompt_column(names)
    except TextFileError as error:
        raise ValueError(f"{key}: {file}: {error}") from error
    if names.count(_IMAGE) != 1 or column is None:
        raise ValueError(
            f"{key}: expected columns {_IMAGE} and {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]} in {file}, each once, got"
            f" {', '.join(names)}; rename them"
        )
    kind = schema.field(_IMAGE).type
    if not _holds_bytes(kind):
        raise ValueError(
            f"{key}: expected bytes, or bytes and path, in column {_IMAGE} of {file}, got {kind}; store the image files"
            " themselves"
        )
    return names[column]


def _holds_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        fields = {kind.field(index).name: kind.field(index).type for index in range(kind.num_fields)}
        return _holds_bytes(fields["bytes"]) if "bytes" in fields else "path" in fields
    if types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    # A column of nulls only has the type null; its rows are refused one by one.
    tests = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view, types.is_null)
    return any(test(kind) for test in tests)


class _RowGroups:
    """Images of a table with one row group in memory at a time; efficient if they are read in order."""

    def __init__(self, table: Any, file: Path) -> None:
        self._table, self._file = table, file
        self._lock = Lock()
        self._group: int | None = None
        self._images: Any = None

    def read(self, group: int, row: int) -> bytes:
        import pyarrow

        try:
            with self._lock:
                if self._group != group:
                    self._images = self._table.read_row_group(group, columns=[_IMAGE]).column(_IMAGE)
                    self._group = group
                image = self._images[row].as_py()
        except pyarrow.ArrowException as error:
            raise OSError(f"damaged table: {error}") from error
        if isinstance(image, Mapping):
            path = image.get("path")
            image = image.get("bytes") or (self._beside(path) if path else None)
        if not isinstance(image, bytes):
            raise ValueError(f"expected bytes, got {'no image' if image is None else type(image).__name__}")
        return image

    def _beside(self, path: object) -> bytes:
        """Read an image file that the table names; a path outside the table's folder is refused for security."""
        folder = self._file.parent.resolve()
        file = (folder / str(path)).resolve()
        if not file.is_relative_to(folder):
            raise ValueError(f"expected a path inside {folder}, got {path!r}")
        return file.read_bytes()
