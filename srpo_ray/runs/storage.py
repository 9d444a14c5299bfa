"""Storage of checkpoints: a local folder, or any URL that pyarrow or fsspec supports."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.core import url_to_fs
from pyarrow import ArrowInvalid
from pyarrow.fs import FileSelector, FileSystem, FileType, FSSpecHandler, LocalFileSystem, PyFileSystem, copy_files

from srpo_ray.credentials import expand_uri, redact
from srpo_ray.files import write_text

_BLOCK = 2**23


@dataclass(frozen=True)
class Fingerprint:
    """Size and hash of a file."""

    bytes: int
    sha256: str


class Storage:
    """Files by relative names, in a folder of this machine or of an object store."""

    def __init__(self, location: Path | str) -> None:
        """Open a location without writing to it.

        Args:
            location: Folder, or URL such as `s3://bucket/folder` or `gs://bucket/folder`; `${NAME}` is replaced by that
                environment variable.

        Raises:
            ValueError: If pyarrow and fsspec do not support the URL, or a package for it is not installed.
            OSError: If the store does not answer.
        """
        self.location = str(location)
        self._system, self._root = _open(location)
        self._local = Path(self._root) if isinstance(self._system, LocalFileSystem) else None
        self._fetched: dict[str, Path] = {}
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    def folders(self) -> list[str]:
        """List the names of the folders, sorted."""
        selector = FileSelector(self._root, allow_not_found=True)
        return sorted(
            info.base_name for info in self._system.get_file_info(selector) if info.type == FileType.Directory
        )

    def exists(self, name: str) -> bool:
        """Return True if the file exists."""
        return self._system.get_file_info(self._path(name)).type == FileType.File

    def read(self, name: str) -> str:
        """Read a small text file.

        Raises:
            OSError: If it cannot be read.
        """
        with self._system.open_input_stream(self._path(name), compression=None) as stream:
            return stream.read().decode()

    def write(self, name: str, text: str) -> None:
        """Write a small text file atomically.

        Raises:
            OSError: If it cannot be written.
        """
        if self._local:
            write_text(self._local / name, text)
            return
        # A write to an object store is atomic.
        self._make_folder_of(name)
        with self._system.open_output_stream(self._path(name), compression=None) as stream:
            stream.write(text.encode())

    def put(self, name: str, save: Callable[[Path], object]) -> Fingerprint:
        """Write a file, and flush it to the disk or read it back from the store.

        Args:
            name: Name of the file.
            save: Function that writes the file to a local path.

        Returns:
            Size and hash of the file.

        Raises:
            OSError: If the file cannot be written, or the store returns different content.
        """
        if self._local:
            path = self._local / name
            path.parent.mkdir(parents=True, exist_ok=True)
            save(path)
            with path.open("rb") as file:
                os.fsync(file.fileno())
            return self.fingerprint(name)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / Path(name).name
            save(path)
            self._make_folder_of(name)
            copy_files(str(path), self._path(name), destination_filesystem=self._system)
            known, found = Storage(scratch).fingerprint(path.name), self.fingerprint(name)
        if known != found:
            raise OSError(f"{self.location}/{name} reads back as {found}, but was written as {known}")
        return known

    def fingerprint(self, name: str) -> Fingerprint:
        """Compute size and SHA-256 of a file as it is now.

        Raises:
            OSError: If it cannot be read.
        """
        digest, size = hashlib.sha256(), 0
        with self._system.open_input_stream(self._path(name), compression=None) as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
                size += len(block)
        return Fingerprint(size, digest.hexdigest())

    def file(self, name: str) -> Path:
        """Return a local path with the file's content: the file itself, or a copy that is removed with this object.

        Raises:
            OSError: If it cannot be read.
        """
        if self._local:
            return self._local / name
        if name not in self._fetched:
            self._scratch = self._scratch or tempfile.TemporaryDirectory()
            path = Path(self._scratch.name) / f"{len(self._fetched)}_{Path(name).name}"
            copy_files(self._path(name), str(path), source_filesystem=self._system)
            self._fetched[name] = path
        return self._fetched[name]

    def remove(self, folder: str) -> None:
        """Remove a folder and its content. Idempotent.

        Raises:
            OSError: If the storage refuses.
        """
        if self._system.get_file_info(self._path(folder)).type == FileType.Directory:
            self._system.delete_dir(self._path(folder))

    def delete(self, name: str) -> None:
        """Remove a file.

        Raises:
            OSError: If the storage refuses, or the file does not exist.
        """
        self._system.delete_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _make_folder_of(self, name: str) -> None:
        self._system.create_dir(self._path(name).rpartition("/")[0], recursive=True)


def below(location: str, name: str) -> str:
    """Join a location and a folder name. In a URL the name is inserted before the query."""
    path, mark, options = location.partition("?") if "://" in location else (location, "", "")
    return f"{path.rstrip('/')}/{name}{mark}{options}"


def require_writable(location: Path | str, key: str) -> None:
    """Check that a location is writable, by writing and removing a small file.

    Args:
        location: Folder or URL.
        key: Config key of the location, for the message.

    Raises:
        ValueError: If the location cannot be written.
    """
    try:
        storage = Storage(location)
        storage.write(".writable", "")
        storage.delete(".writable")
    except OSError as error:
        raise ValueError(
            f"{key}: expected a writable location, got {location} ({redact(error)}); check the address, the"
            " bucket and the credentials, or choose another location"
        ) from error


def _open(location: Path | str) -> tuple[Any, str]:
    text = expand_uri(str(location))
    if "://" not in text:
        return LocalFileSystem(), str(Path(location).resolve())
    try:
        system, root = FileSystem.from_uri(text)
    except (ArrowInvalid, NotImplementedError):
        try:
            other, root = url_to_fs(text)
        except (ValueError, ImportError) as error:
            raise ValueError(
                "training.checkpoint_storage: expected a folder or a URL that pyarrow or fsspec supports"
                f" ({', '.join(sorted(fsspec.available_protocols())[:6])}, ...), got {str(location)!r}"
                f" ({redact(error)})"
            ) from error
        system = PyFileSystem(FSSpecHandler(other))
    return system, root.rstrip("/")
