"""Where real pictures lie: a folder, webdataset tar files, Parquet tables. Captions are read, pictures only listed."""

import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any

from srpo_ray.data.prompts import COLUMNS, prompt_of

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
TAR, PARQUET = ".tar", ".parquet"
_CAPTIONS = (".txt", ".json")
_IMAGE = "image"


@dataclass(frozen=True)
class Entry:
    """One picture that has not been read."""

    name: str
    """What it is called in messages."""
    identity: str
    """Changes with the picture: its name, size and time of change."""
    caption: str
    """Empty where there is none."""
    read: Callable[[], bytes]


def folder_entries(files: list[Path]) -> tuple[list[Entry], int]:
    """Pictures among files, each with the caption of the .txt or .json file of the same name.

    Returns:
        The pictures, and the number of captions without one.

    Raises:
        ValueError: If a caption cannot be read.
    """
    groups: dict[str, dict[str, Path]] = {}
    for file in files:
        groups.setdefault(file.stem, {})[file.suffix] = file
    entries = []
    for stem, group in groups.items():
        caption = _caption({suffix: file.read_bytes for suffix, file in group.items()}, stem)
        pictures = [group[suffix] for suffix in _of(group, SUFFIXES)]
        entries += [Entry(str(file), f"{file.name} {_stamp(file)}", caption, file.read_bytes) for file in pictures]
    return entries, _strays(groups)


def tar_entries(files: list[Path], key: str) -> tuple[list[Entry], int]:
    """Pictures of tar files in webdataset's layout: members of the same name but for the suffix belong together.

    Returns:
        The pictures, and the number of captions without one.

    Raises:
        ValueError: If a file is no whole, uncompressed tar file, or a caption cannot be read.
    """
    entries, strays = [], 0
    for file in files:
        groups: dict[str, dict[str, Callable[[], bytes]]] = {}
        for member in _members(file, key):
            name = PurePosixPath(member.name)
            read = partial(_read_range, file, member.offset_data, member.size)
            groups.setdefault(str(name.with_suffix("")), {})[name.suffix] = read
        for name, group in groups.items():
            caption = _caption(group, f"{file}: {name}")
            for suffix in _of(group, SUFFIXES):
                identity = f"{file.name} {_stamp(file)} {name}{suffix}"
                entries.append(Entry(f"{file}: {name}{suffix}", identity, caption, group[suffix]))
        strays += _strays(groups)
    return entries, strays


def parquet_entries(files: list[Path], key: str) -> list[Entry]:
    """Pictures of tables: column `image` with bytes, or with `bytes` and `path`, and a caption's column beside it.

    Raises:
        ValueError: If a file is no Parquet table with such columns.
    """
    import pyarrow
    import pyarrow.parquet

    entries: list[Entry] = []
    for file in files:
        try:
            table = pyarrow.parquet.ParquetFile(file)
        except (OSError, pyarrow.ArrowInvalid) as error:
            raise ValueError(
                f"{key}: expected a whole Parquet file, got {file} ({error}); mend or remove it"
            ) from error
        names = table.schema_arrow.names
        captions = next((name for column in COLUMNS for name in names if name.lower() == column), None)
        if _IMAGE not in names or captions is None:
            raise ValueError(
                f"{key}: expected columns {_IMAGE} and {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]} in {file}, got"
                f" {', '.join(names)}; rename them"
            )
        texts = table.read(columns=[captions]).column(captions).to_pylist()
        groups = _RowGroups(table, file)
        places = [
            (group, row)
            for group in range(table.num_row_groups)
            for row in range(table.metadata.row_group(group).num_rows)
        ]
        for number, (place, text) in enumerate(zip(places, texts, strict=True)):
            read = partial(groups.read, *place)
            identity = f"{file.name} {_stamp(file)} {number}"
            entries.append(Entry(f"{file}: row {number}", identity, prompt_of(text) or "", read))
    return entries


class _RowGroups:
    """Pictures of a table, of which one row group at a time is in memory; they are asked for in their order."""

    def __init__(self, table: Any, file: Path) -> None:
        self._table, self._file = table, file
        self._lock = Lock()
        self._group: int | None = None
        self._images: Any = None

    def read(self, group: int, row: int) -> bytes:
        with self._lock:
            if self._group != group:
                self._images = self._table.read_row_group(group, columns=[_IMAGE]).column(_IMAGE)
                self._group = group
            image = self._images[row].as_py()
        if isinstance(image, Mapping):
            path = image.get("path")
            image = image.get("bytes") or (self._beside(path) if path else None)
        if not isinstance(image, bytes):
            raise ValueError(f"expected bytes, got {type(image).__name__}")
        return image

    def _beside(self, path: str) -> bytes:
        """A picture file that the table names; one from elsewhere on the machine is not its business."""
        folder = self._file.parent.resolve()
        file = (folder / path).resolve()
        if not file.is_relative_to(folder):
            raise ValueError(f"expected a path inside {folder}, got {path!r}")
        return file.read_bytes()


def _members(file: Path, key: str) -> list[tarfile.TarInfo]:
    try:
        with tarfile.open(file, "r:") as archive:
            members = [member for member in archive if member.isfile()]
            # Where a header cannot be read, tarfile takes it for the end; a real end is a block of zeros.
            end = _read_range(file, archive.offset, tarfile.BLOCKSIZE)
            if end.strip(b"\0") or len(end) < tarfile.BLOCKSIZE:
                raise tarfile.ReadError(f"it breaks off after {len(members)} members")
    except (OSError, tarfile.TarError) as error:
        raise ValueError(
            f"{key}: expected a whole, uncompressed tar file, got {file} ({error}); unpack or load it again"
        ) from error
    # Some archivers put a file of their own beside each member.
    return [member for member in members if not PurePosixPath(member.name).name.startswith("._")]


def _read_range(file: Path, offset: int, size: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(offset)
        return opened.read(size)


def _of(group: Mapping[str, Any], kinds: Sequence[str]) -> list[str]:
    """The suffixes of a group that are of some kinds, whatever their case."""
    return [suffix for kind in kinds for suffix in group if suffix.lower() == kind]


def _caption(group: Mapping[str, Callable[[], bytes]], name: str) -> str:
    suffixes = _of(group, _CAPTIONS)
    if not suffixes:
        return ""
    try:
        text = group[suffixes[0]]().decode("utf-8-sig")
        return prompt_of(json.loads(text) if suffixes[0].lower() == ".json" else text) or ""
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"data.images: expected a readable caption, got {name}{suffixes[0]} ({error}); mend or remove it"
        ) from error


def _strays(groups: Mapping[str, Mapping[str, Any]]) -> int:
    """Captions whose picture is not there or has another format."""
    return sum(bool(_of(group, _CAPTIONS)) and not _of(group, SUFFIXES) for group in groups.values())


def _stamp(file: Path) -> str:
    stat = file.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"
