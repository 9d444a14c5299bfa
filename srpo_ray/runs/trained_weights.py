"""Weights that stand for a run: those of one of its checkpoints, or their EMA."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from srpo_ray.runs.checkpoint_files import (
    EMA,
    UNREADABLE,
    WEIGHTS,
    TensorFiles,
    check_file,
    checkpoint_name,
    complete_checkpoints,
    kind_of,
    read_manifest,
    unreadable,
    warn_damaged,
)
from srpo_ray.runs.folder import RunFolder
from srpo_ray.runs.storage import Storage


def latest_trained(storage: Storage) -> tuple[int, Mapping[str, Tensor]] | None:
    """Call `read_trained_weights` on the newest checkpoint with valid weights. Warn about each damaged checkpoint."""
    for update in reversed(complete_checkpoints(storage)):
        try:
            return update, read_trained_weights(storage, update)
        except ValueError as error:
            warn_damaged(str(error), stacklevel=2)
    return None


def finished_update(folder: RunFolder) -> int | None:
    """Find the update of the weights that stand for a finished run: its best evaluation, or its newest checkpoint.

    No weights are read.

    Args:
        folder: Folder of the run.

    Returns:
        The update, 0 for the baseline; None if the run is not finished or has no checkpoint.
    """
    if not folder.config.exists() or not folder.finished.exists():
        return None
    if folder.best_update is not None:
        return folder.best_update
    complete = complete_checkpoints(Storage(folder.checkpoints))
    return complete[-1] if complete else None


def read_trained_weights(storage: Storage, update: int, part: tuple[int, int] = (0, 1)) -> Mapping[str, Tensor]:
    """Read the EMA of the weights, or the weights if the run keeps no EMA.

    No other file is read: sampling does not need the optimizer's state, which is twice as large.

    Args:
        storage: Storage of the run's checkpoints.
        update: Updates made.
        part: `(i, n)` verifies the contents of the i-th of every n files only; every file is opened.

    Raises:
        ValueError: If there is no such checkpoint, or a file is missing, changed or unreadable.
    """
    folder, (first, stride) = checkpoint_name(update), part
    try:
        manifest = read_manifest(storage, folder)
        files = _trained_files(manifest)
        for name in sorted(files)[first::stride]:
            check_file(storage, folder, name, manifest)
        return TensorFiles([storage.file(f"{folder}/{name}") for name in files])
    except UNREADABLE as error:
        raise unreadable(storage, folder, error) from error


def trained_identity(storage: Storage, update: int) -> str:
    """Hash the manifest's entries of the files that `read_trained_weights` reads (SHA-256). No tensor is read.

    Raises:
        ValueError: If there is no such checkpoint.
    """
    folder = checkpoint_name(update)
    try:
        files = _trained_files(read_manifest(storage, folder))
    except UNREADABLE as error:
        raise unreadable(storage, folder, error) from error
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _trained_files(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return file name -> fingerprint for the EMA of the weights, or for the weights if there is no EMA."""
    kind = EMA if any(kind_of(name) == EMA for name in manifest["files"]) else WEIGHTS
    return {name: fingerprint for name, fingerprint in manifest["files"].items() if kind_of(name) == kind}
