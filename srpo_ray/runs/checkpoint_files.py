"""Files of a checkpoint: tensors in the safetensors format, and a manifest with the checksums of all of them."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from srpo_ray.runs.storage import Fingerprint, Storage

WEIGHTS, OPTIMIZER, EMA = "weights", "optimizer", "ema"
OLD, STATE, ROLLOUTS = "old", "state", "rollouts"
"""Further kinds of tensors: weights of role `old`, the algorithm's state, and the clean tokens of each sample that the
next updates reuse."""
MANIFEST = "manifest.json"
UNREADABLE = (OSError, json.JSONDecodeError, UnicodeDecodeError, RecursionError, SafetensorError)


class TensorFiles(Mapping[str, Tensor]):
    """Tensors of several safetensors files, each read on access."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Map the files.

        Raises:
            SafetensorError: If a file is not in the safetensors format, or is truncated.
            OSError: If a file cannot be read.
        """
        handles = [safe_open(file, framework="pt") for file in files]
        self._handles: dict[str, Any] = {name: handle for handle in handles for name in handle.keys()}  # noqa: SIM118

    def __getitem__(self, name: str) -> Tensor:
        return self._handles[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._handles)

    def __len__(self) -> int:
        return len(self._handles)


def checkpoint_name(update: int) -> str:
    """Return the folder name of an update's checkpoint."""
    return f"update_{update:06d}"


def complete_checkpoints(storage: Storage) -> list[int]:
    """List the updates of the checkpoints with a manifest, oldest first."""
    names = [name for name in storage.folders() if name.startswith("update_")]
    return [int(name.removeprefix("update_")) for name in names if storage.exists(f"{name}/{MANIFEST}")]


def kind_of(name: str) -> str:
    """Return the kind of a file: `weights` for `weights-00000.safetensors`."""
    return name.rpartition("-")[0]


def saver(tensors: Mapping[str, Tensor]) -> Callable[[Path], None]:
    """Make the function that writes tensors to a file and checks its header."""

    def save(path: Path) -> None:
        save_file(dict(tensors), path)
        # Opening the file compares its header with its length.
        TensorFiles([path])

    return save


def sealed(manifest: Mapping[str, Any]) -> str:
    """Format the manifest as JSON with a checksum of itself."""
    return json.dumps({**manifest, "sha256": _digest(manifest)}, indent=1)


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def read_manifest(storage: Storage, folder: str) -> dict[str, Any]:
    """Read the manifest without its checksum.

    Raises:
        ValueError: If it is damaged.
        OSError: If it cannot be read.
    """
    manifest = json.loads(storage.read(f"{folder}/{MANIFEST}"))
    if not isinstance(manifest, dict) or manifest.pop("sha256", None) != _digest(manifest):
        raise ValueError(f"checkpoint {storage.location}/{folder}: {MANIFEST} is damaged")
    return manifest


def open_files(storage: Storage, folder: str, manifest: Mapping[str, Any], kind: str) -> TensorFiles:
    """Open the files of a kind that the manifest lists."""
    return TensorFiles([storage.file(f"{folder}/{name}") for name in manifest["files"] if kind_of(name) == kind])


def check_file(storage: Storage, folder: str, name: str, manifest: Mapping[str, Any]) -> None:
    """Compare a file with its entry in the manifest.

    Raises:
        ValueError: If they differ.
    """
    if storage.fingerprint(f"{folder}/{name}") != Fingerprint(**manifest["files"][name]):
        raise damaged_file(storage, folder, name)


def warn_damaged(problem: str, stacklevel: int) -> None:
    """Warn that a checkpoint is damaged and that the one before it is used."""
    warnings.warn(f"{problem}; using the checkpoint before it", stacklevel=stacklevel + 1)


def damaged_file(storage: Storage, folder: str, name: str) -> ValueError:
    """Make the error of a file that differs from its entry in the manifest."""
    return ValueError(f"checkpoint {storage.location}/{folder}: {name} is not what the manifest says, so it is damaged")


def unreadable(storage: Storage, folder: str, error: Exception) -> ValueError:
    """Make the error of a checkpoint that cannot be read."""
    return ValueError(
        f"checkpoint {storage.location}/{folder}: expected weights, optimizer and manifest, got: {error!r}"
    )
