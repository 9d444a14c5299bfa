"""Checkpoints: whole tensors in safetensors, so that any number of workers reads what any number has written.

A checkpoint is a folder `step_000020` with the trained weights, the optimizer's state, the average of the weights if
the run keeps one, and `manifest.json`, which holds the size and SHA-256 of each file. It is written under another name
and renamed when it is complete; the one before it goes only after that.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

T = TypeVar("T")

WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.safetensors"
AVERAGE = "average.safetensors"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """One complete checkpoint."""

    path: Path
    step: int
    """Updates made."""
    weights: dict[str, Tensor]
    """Parameter name -> float32 weights."""
    optimizer: dict[str, Tensor]
    """`<parameter name>/<state>` -> float32 state of the optimizer."""
    average: dict[str, Tensor]
    """Parameter name -> float32 average of the weights; empty if the run keeps none."""
    state: dict[str, Any]
    """What else the run needs to go on."""


def save_checkpoint(
    folder: Path,
    step: int,
    weights: dict[str, Tensor],
    optimizer: dict[str, Tensor],
    state: dict[str, Any],
    kept: int,
    average: dict[str, Tensor] | None = None,
    protected: int | None = None,
) -> Path:
    """Write a checkpoint, prove that it can be read, then remove all but the `kept` newest.

    Args:
        folder: Folder of the run's checkpoints.
        step: Updates made.
        weights: Parameter name -> whole weights.
        optimizer: `<parameter name>/<state>` -> whole state.
        state: Plain values; JSON.
        kept: Checkpoints to keep, at least 1.
        average: Parameter name -> whole average of the weights, if the run keeps one.
        protected: Step whose checkpoint stays, however old.

    Returns:
        The checkpoint's folder.
    """
    final = checkpoint_path(folder, step)
    partial = folder / f".{final.name}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    contents = {WEIGHTS: weights, OPTIMIZER: optimizer} | ({AVERAGE: average} if average else {})
    for name, tensors in contents.items():
        save_file(tensors, partial / name)
    files = {name: _fingerprint(partial / name) for name in contents}
    (partial / MANIFEST).write_text(json.dumps({"step": step, "state": state, "files": files}, indent=1))
    shutil.rmtree(final, ignore_errors=True)
    partial.replace(final)
    read_checkpoint(final)
    spared = None if protected is None else checkpoint_path(folder, protected)
    for old in complete_checkpoints(folder)[:-kept]:
        if old != spared:
            shutil.rmtree(old)
    return final


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is, if there is one."""
    return folder / f"step_{step:06d}"


def complete_checkpoints(folder: Path) -> list[Path]:
    """Folders of the checkpoints that were renamed into place, oldest first."""
    return sorted(folder.glob("step_*")) if folder.is_dir() else []


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; damaged ones are named in a warning and passed over."""
    return _newest_whole(folder, read_checkpoint)


def latest_trained_file(folder: Path) -> tuple[int, Path] | None:
    """`trained_file` of the newest checkpoint that has it whole; damaged ones are named in a warning."""
    return _newest_whole(folder, trained_file)


def _newest_whole(folder: Path, read: Callable[[Path], T]) -> T | None:
    for path in reversed(complete_checkpoints(folder)):
        try:
            return read(path)
        except ValueError as error:
            warnings.warn(f"{error}; using the checkpoint before it", stacklevel=3)
    return None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and check it against its manifest.

    Raises:
        ValueError: If a file is missing, changed or unreadable.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        for name in manifest["files"]:
            _check_file(path, name, manifest)
        return Checkpoint(
            path=path,
            step=manifest["step"],
            weights=load_file(path / WEIGHTS),
            optimizer=load_file(path / OPTIMIZER),
            average=load_file(path / AVERAGE) if AVERAGE in manifest["files"] else {},
            state=manifest["state"],
        )
    except (OSError, json.JSONDecodeError, KeyError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def trained_file(path: Path) -> tuple[int, Path]:
    """Updates made, and the file with the average of the weights, or with the weights where the run keeps no average.

    No other file is looked at: the optimizer's state, twice as large, is nothing that a picture needs.

    Raises:
        ValueError: If it is missing, changed or unreadable.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        name = AVERAGE if AVERAGE in manifest["files"] else WEIGHTS
        _check_file(path, name, manifest)
        return manifest["step"], path / name
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise _unreadable(path, error) from error


def _check_file(path: Path, name: str, manifest: dict[str, Any]) -> None:
    if _fingerprint(path / name) != manifest["files"][name]:
        raise ValueError(f"checkpoint {path}: {name} is not what the manifest says, so it is damaged")


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"checkpoint {path}: expected weights, optimizer and manifest, got: {error!r}")


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
