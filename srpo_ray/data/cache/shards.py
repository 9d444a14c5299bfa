"""Store of tensor rows on disk in checksummed shards, for values that are computed once and read many times.

A shard is one safetensors file: tensors with one row per entry, and a header with the entries' keys and a SHA-256 of
keys and tensors. Shards are written atomically and never modified, so any number of processes may write and read
concurrently. If two of them write the same entry, the duplicate is harmless.
"""

import hashlib
import uuid
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from srpo_ray.files import replacing

ROWS = 256
"""Entries of a full shard: 1 GiB of FLUX's text features, 256 MiB of latents at 1024 x 1024 pixels."""

_READERS = 8


@dataclass(frozen=True)
class Shard:
    """One readable shard."""

    path: Path
    keys: tuple[str, ...]
    """Key of each row."""
    checksum: str


class ShardStore:
    """The shards of a folder."""

    def __init__(self, folder: Path) -> None:
        """Create a store; nothing is read or created on disk until it is needed.

        Args:
            folder: Folder of the shards.
        """
        self.folder = folder

    def add(self, keys: Sequence[str], tensors: dict[str, Tensor], name: str | None = None) -> Path:
        """Write one shard atomically.

        Args:
            keys: Key of each entry, without blanks.
            tensors: Tensors with one row per entry.
            name: Name of the shard, which replaces one of this name; None chooses a new name.

        Returns:
            Path of the shard.
        """
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        assert all(len(tensor) == len(keys) for tensor in whole.values())
        path = self._path(name or uuid.uuid4().hex)
        with replacing(path) as unfinished:
            save_file(whole, unfinished, {"keys": " ".join(keys), "sha256": _checksum(keys, whole)})
        return path

    def missing(self, keys: Sequence[str]) -> list[int]:
        """Find the entries that are missing, and verify every shard that contains some of the others.

        A damaged shard is removed with a warning that names it, so its entries are missing.

        Args:
            keys: Keys of entries; repeated ones count once.

        Returns:
            Indices into `keys`, ascending.
        """
        wanted, found = set(keys), set[str]()
        paths = self._paths()
        with ThreadPoolExecutor(_READERS) as readers:
            for path, shard in zip(paths, readers.map(lambda path: _checked(path, wanted), paths), strict=True):
                if shard:
                    found.update(shard.keys)
                elif path.exists():
                    _remove_damaged(path)
        first = {key: index for index, key in reversed(list(enumerate(keys)))}
        return sorted(index for key, index in first.items() if key not in found)

    def keys(self) -> set[str]:
        """Keys of all entries in readable shards; only headers are read."""
        return {key for path in self._paths() if (shard := _read(path)) for key in shard.keys}

    def names(self) -> set[str]:
        """Names of all shards; nothing is read."""
        return {path.stem for path in self._paths()}

    def read(self, name: str, keys: Sequence[str]) -> dict[str, Tensor] | None:
        """Read and verify one whole shard.

        Args:
            name: Name given to `add`.
            keys: Keys given to `add`.

        Returns:
            Tensor name -> rows; None if the shard is missing, or if it was damaged and is removed with a warning.
        """
        path = self._path(name)
        shard = _read(path)
        tensors = _verified(shard) if shard and shard.keys == tuple(keys) else None
        if tensors is None and path.exists():
            _remove_damaged(path)
        return tensors

    def rows(self, keys: Sequence[str]) -> "Rows":
        """Return the entries with these keys, which are read on demand.

        Raises:
            ValueError: If an entry is missing.
        """
        places: dict[str, tuple[Path, int]] = {}
        for path in self._paths():
            shard = _read(path)
            if shard:
                places |= {key: (path, row) for row, key in enumerate(shard.keys)}
        absent = sum(key not in places for key in keys)
        if absent:
            raise ValueError(
                f"expected all {len(keys)} entries in {self.folder}, got {absent} fewer; either another process removed"
                " them, or this node does not see the folder: put run_root on storage that every node sees"
            )
        return Rows([places[key] for key in keys])

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _paths(self) -> list[Path]:
        # A file that is still being written has another suffix.
        return sorted(self.folder.glob("*.safetensors"))


class Rows:
    """Entries in a given order, read from disk row by row."""

    def __init__(self, places: Sequence[tuple[Path, int]]) -> None:
        self.places = places
        """File and row of each entry."""

    @classmethod
    def joined(cls, parts: Sequence[tuple[Sequence[int], "Rows"]]) -> "Rows":
        """Join entries of several stores in one order. Tensors of entries that are read together must have one shape.

        Args:
            parts: Positions in the whole, and the entries there. Each position is in one part.
        """
        places: dict[int, tuple[Path, int]] = {}
        for positions, rows in parts:
            places |= zip(positions, rows.places, strict=True)
        return cls([places[position] for position in range(len(places))])

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Read tensor name -> rows of these entries, `[len(indices), ...]`, and nothing else of a shard."""
        found: list[dict[str, Tensor]] = []
        for path, row in (self.places[index] for index in indices):
            with safe_open(path, framework="pt") as file:
                found.append({name: file.get_slice(name)[row] for name in file.keys()})  # noqa: SIM118
        return {name: torch.stack([tensors[name] for tensors in found]) for name in found[0]}


def _read(path: Path) -> Shard | None:
    """Read keys and checksum of a shard; None if its header is damaged or it has just been removed."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            rows = {file.get_slice(name).get_shape()[0] for name in file.keys()}  # noqa: SIM118
        keys = tuple(header["keys"].split())
        return Shard(path, keys, header["sha256"]) if rows == {len(keys)} else None
    except (SafetensorError, KeyError, FileNotFoundError):
        return None


def _checked(path: Path, wanted: set[str]) -> Shard | None:
    """Read a shard, and verify it if it contains a wanted key; None if it is damaged or has just been removed."""
    shard = _read(path)
    return shard if shard and (wanted.isdisjoint(shard.keys) or _verified(shard) is not None) else None


def _verified(shard: Shard) -> dict[str, Tensor] | None:
    """Read the tensors of a shard; None if they are damaged or it has just been removed."""
    try:
        with safe_open(shard.path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, FileNotFoundError):
        return None
    return tensors if _checksum(shard.keys, tensors) == shard.checksum else None


def _remove_damaged(path: Path) -> None:
    path.unlink(missing_ok=True)
    warnings.warn(f"{path} was damaged and is removed; its entries are recomputed", stacklevel=3)


def _checksum(keys: Sequence[str], tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(" ".join(keys).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(torch.uint8).numpy().data)
    return digest.hexdigest()
