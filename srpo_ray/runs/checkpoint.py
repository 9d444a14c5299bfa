"""Checkpoints: whole tensors in safetensors files, independent of the number of workers.

A checkpoint is a folder such as `update_000020`. All workers write their tensors in parallel: `weights`, `optimizer`
and, if the run keeps one, `ema`. Further kinds of tensors have separate files. Once every file is on the disk, worker 0
writes `manifest.json` with the size and SHA-256 of each file and a checksum of the manifest itself. A folder without a
manifest is not a checkpoint. Old checkpoints are removed only after that.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from srpo_ray.errors import CheckpointError
from srpo_ray.runs.checkpoint_files import (
    EMA,
    MANIFEST,
    OPTIMIZER,
    UNREADABLE,
    WEIGHTS,
    check_file,
    checkpoint_name,
    complete_checkpoints,
    damaged_file,
    kind_of,
    open_files,
    read_manifest,
    saver,
    sealed,
    unreadable,
    warn_damaged,
)
from srpo_ray.runs.collectives import from_worker_0, gather, rank_and_world_size
from srpo_ray.runs.storage import Storage


@dataclass(frozen=True)
class Checkpoint:
    """One valid checkpoint; its tensors are read on access."""

    update: int
    """Updates made."""
    weights: Mapping[str, Tensor]
    """Parameter name -> float32 weights."""
    optimizer: Mapping[str, Tensor]
    """`<parameter name>/<state>` -> float32 state of the optimizer."""
    ema: Mapping[str, Tensor]
    """Parameter name -> float32 EMA of the weights; empty if the run keeps none."""
    state: Mapping[str, Any]
    """Identity and progress of the run: `config.continuation.run_identity`, samples, number of workers, MLflow run."""
    extra: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """Kind -> name -> further tensors; kinds without tensors are absent."""


def save_checkpoint(
    storage: Storage,
    update: int,
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    ema: Mapping[str, Tensor],
    state: Mapping[str, Any],
    kept: int,
    protected: int | None = None,
    extra: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> None:
    """Write a checkpoint, then remove all but the `kept` newest. All workers must call.

    Args:
        storage: Storage of the run's checkpoints.
        update: Updates made.
        weights: Parameter name -> whole weights that this worker writes.
        optimizer: `<parameter name>/<state>` -> whole optimizer state that this worker writes.
        ema: Parameter name -> whole EMA that this worker writes; empty if the run keeps none.
        state: JSON values.
        kept: Number of checkpoints to keep, at least 1.
        protected: Update whose checkpoint is kept regardless of its age.
        extra: Kind -> name -> further tensors that this worker writes.

    Raises:
        CheckpointError: On every worker, if a write fails on any worker. Earlier checkpoints do not change.
    """
    folder = checkpoint_name(update)
    parts = {WEIGHTS: weights, OPTIMIZER: optimizer, EMA: ema, **(extra or {})}
    _on_worker_0(lambda: storage.remove(folder), storage, update)
    written, problem = {}, None
    try:
        for kind, tensors in parts.items():
            if tensors:
                name = f"{kind}-{rank_and_world_size()[0]:05d}.safetensors"
                written[name] = storage.put(f"{folder}/{name}", saver(tensors))
    except (OSError, SafetensorError) as error:
        problem = str(error)
    everyones = gather((written, problem))
    problems = [text for _, text in everyones if text]
    if problems:
        _on_worker_0(lambda: storage.remove(folder), storage, update)
        raise _not_written(storage, update, problems[0])
    files = {name: asdict(fingerprint) for part, _ in everyones for name, fingerprint in part.items()}
    manifest = sealed({"update": update, "state": dict(state), "files": files})

    def finish() -> None:
        storage.write(f"{folder}/{MANIFEST}", manifest)
        # Later checkpoints are damaged, or the run would have resumed from them.
        newest = [each for each in complete_checkpoints(storage) if each <= update][-kept:]
        spared = {checkpoint_name(each) for each in (*newest, protected) if each}
        for old in storage.folders():
            # Also remove incomplete checkpoints of killed processes.
            if old.startswith("update_") and old not in spared:
                storage.remove(old)

    _on_worker_0(finish, storage, update)


def _warn(_step: int, problem: str) -> None:
    warn_damaged(problem, stacklevel=3)


def load_checkpoint(
    storage: Storage, expected: Mapping[str, Any], tell: Callable[[int, str], None] = _warn
) -> Checkpoint | None:
    """Load the newest valid checkpoint, the same on every worker. All workers must call.

    Each worker verifies its share of the files. Damaged checkpoints are skipped.

    Args:
        storage: Storage of the run's checkpoints.
        expected: Entries that a checkpoint's `state` must have: the identity of the run.
        tell: Callback on worker 0 for each damaged checkpoint, with its update and the problem.

    Returns:
        Newest valid checkpoint, or None.

    Raises:
        ValueError: If the checkpoint belongs to another run.
    """
    for update in reversed(from_worker_0(lambda: complete_checkpoints(storage))):
        found = valid_checkpoint(storage, update, tell)
        if found:
            _check_state(storage, found, expected)
            return found
    return None


def valid_checkpoint(storage: Storage, update: int, tell: Callable[[int, str], None] = _warn) -> Checkpoint | None:
    """Open a checkpoint if it is valid, with the same result on every worker. All workers must call.

    Each worker verifies its share of the files.

    Args:
        storage: Storage of the run's checkpoints.
        update: Updates made.
        tell: Callback on worker 0 for a damaged checkpoint, with its update and the problem.
    """
    found, problem = None, None
    try:
        found = read_checkpoint(storage, update, part=rank_and_world_size())
    except ValueError as error:
        problem = str(error)
    problems = [text for text in gather(problem) if text]
    if problems and rank_and_world_size()[0] == 0:
        tell(update, problems[0])
    return None if problems else found


def read_checkpoint(storage: Storage, update: int, part: tuple[int, int] = (0, 1)) -> Checkpoint:
    """Open a checkpoint and verify it against its manifest.

    Args:
        storage: Storage of the run's checkpoints.
        update: Updates made.
        part: `(i, n)` verifies the contents of the i-th of every n files only; every file is opened.

    Raises:
        ValueError: If a file is missing, changed or unreadable.
    """
    folder, (first, stride) = checkpoint_name(update), part
    try:
        manifest = read_manifest(storage, folder)
        for name in sorted(manifest["files"])[first::stride]:
            check_file(storage, folder, name, manifest)
        main = {kind: open_files(storage, folder, manifest, kind) for kind in (WEIGHTS, OPTIMIZER, EMA)}
        others = sorted({kind_of(name) for name in manifest["files"]} - set(main))
        extra = {kind: open_files(storage, folder, manifest, kind) for kind in others}
        return Checkpoint(manifest["update"], **main, state=manifest["state"], extra=extra)
    except UNREADABLE as error:
        raise unreadable(storage, folder, error) from error


def copy_checkpoint(source: Storage, target: Storage, update: int) -> None:
    """Copy a checkpoint to the storage of another run; its manifest is written last. Files are linked if possible.

    Args:
        source: Storage of the run that wrote the checkpoint.
        target: Storage of the other run.
        update: Updates made.

    Raises:
        ValueError: If a file is missing, changed or unreadable.
        CheckpointError: If a write fails.
    """
    folder = checkpoint_name(update)
    try:
        manifest = read_manifest(source, folder)
        files = {name: source.file(f"{folder}/{name}") for name in manifest["files"]}
    except UNREADABLE as error:
        raise unreadable(source, folder, error) from error
    try:
        written = {name: target.put(f"{folder}/{name}", partial(_link, file)) for name, file in files.items()}
        damaged = [name for name in files if asdict(written[name]) != manifest["files"][name]]
        if damaged:
            raise damaged_file(source, folder, damaged[0])
        target.write(f"{folder}/{MANIFEST}", sealed(manifest))
    except OSError as error:
        raise _not_written(target, update, str(error)) from error


def _link(source: Path, target: Path) -> None:
    """Link a file, or copy it to another file system. No file of a complete checkpoint is ever changed in place."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _check_state(storage: Storage, found: Checkpoint, expected: Mapping[str, Any]) -> None:
    for key, value in expected.items():
        if found.state.get(key) != value:
            raise ValueError(
                f"checkpoint {storage.location}/{checkpoint_name(found.update)}: expected a run with {key}"
                f" {value!r}, got {found.state.get(key)!r}; choose another `name` or checkpoint storage, or remove it"
            )


def _not_written(storage: Storage, update: int, reason: str) -> CheckpointError:
    try:
        before = complete_checkpoints(storage)
        kept = f"the newest checkpoint is still that of update {before[-1]}" if before else "there is no earlier one"
    except OSError:
        kept = "earlier checkpoints cannot be listed either"
    return CheckpointError(
        f"the checkpoint of update {update} could not be written to {storage.location}: {reason}; {kept}"
    )


def _on_worker_0(act: Callable[[], None], storage: Storage, update: int) -> None:
    """Run an action on worker 0 while the others wait. If it fails, all workers raise."""

    def attempt() -> str | None:
        try:
            act()
        except OSError as error:
            return str(error)
        return None

    problem = from_worker_0(attempt)
    if problem:
        raise _not_written(storage, update, problem)
