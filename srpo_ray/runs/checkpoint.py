"""Checkpoints: whole tensors in safetensors files, independent of the number of workers.

A checkpoint is a folder such as `update_000020`. All workers write their tensors in parallel: `weights`, `optimizer`
and, if the run keeps one, `ema`. Further kinds of tensors have separate files. Once every file is on the disk, worker 0
writes `manifest.json` with the size and SHA-256 of each file and a checksum of the manifest itself. A folder without a
manifest is not a checkpoint. Old checkpoints are removed only after that.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from srpo_ray.errors import CheckpointError
from srpo_ray.runs.collectives import from_worker_0, gather, rank_and_world_size
from srpo_ray.runs.storage import Fingerprint, Storage

WEIGHTS, OPTIMIZER, EMA = "weights", "optimizer", "ema"
OLD, STATE, ROLLOUTS = "old", "state", "rollouts"
"""Further kinds of tensors: weights of role `old`, the algorithm's state, and the clean tokens of each sample that the
next updates reuse."""
MANIFEST = "manifest.json"

_UNREADABLE = (OSError, json.JSONDecodeError, UnicodeDecodeError, RecursionError, SafetensorError)


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
                written[name] = storage.put(f"{folder}/{name}", _saver(tensors))
    except (OSError, SafetensorError) as error:
        problem = str(error)
    everyones = gather((written, problem))
    problems = [text for _, text in everyones if text]
    if problems:
        _on_worker_0(lambda: storage.remove(folder), storage, update)
        raise _not_written(storage, update, problems[0])
    files = {name: asdict(fingerprint) for part, _ in everyones for name, fingerprint in part.items()}
    manifest = _sealed({"update": update, "state": dict(state), "files": files})

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


def checkpoint_name(update: int) -> str:
    """Return the folder name of an update's checkpoint."""
    return f"update_{update:06d}"


def complete_checkpoints(storage: Storage) -> list[int]:
    """List the updates of the checkpoints with a manifest, oldest first."""
    names = [name for name in storage.folders() if name.startswith("update_")]
    return [int(name.removeprefix("update_")) for name in names if storage.exists(f"{name}/{MANIFEST}")]


def _warn(_step: int, problem: str) -> None:
    warnings.warn(f"{problem}; using the checkpoint before it", stacklevel=3)


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
        manifest = _read_manifest(storage, folder)
        for name in sorted(manifest["files"])[first::stride]:
            _check_file(storage, folder, name, manifest)
        main = {kind: _open_files(storage, folder, manifest, kind) for kind in (WEIGHTS, OPTIMIZER, EMA)}
        others = sorted({_kind(name) for name in manifest["files"]} - set(main))
        extra = {kind: _open_files(storage, folder, manifest, kind) for kind in others}
        return Checkpoint(manifest["update"], **main, state=manifest["state"], extra=extra)
    except _UNREADABLE as error:
        raise _unreadable(storage, folder, error) from error


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
        manifest = _read_manifest(source, folder)
        files = {name: source.file(f"{folder}/{name}") for name in manifest["files"]}
    except _UNREADABLE as error:
        raise _unreadable(source, folder, error) from error
    try:
        written = {name: target.put(f"{folder}/{name}", partial(_link, file)) for name, file in files.items()}
        damaged = [name for name in files if asdict(written[name]) != manifest["files"][name]]
        if damaged:
            raise _damaged(source, folder, damaged[0])
        target.write(f"{folder}/{MANIFEST}", _sealed(manifest))
    except OSError as error:
        raise _not_written(target, update, str(error)) from error


def _link(source: Path, target: Path) -> None:
    """Link a file, or copy it to another file system. No file of a complete checkpoint is ever changed in place."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def latest_trained(storage: Storage) -> tuple[int, Mapping[str, Tensor]] | None:
    """Call `read_trained_weights` on the newest checkpoint with valid weights. Warn about each damaged checkpoint."""
    for update in reversed(complete_checkpoints(storage)):
        try:
            return update, read_trained_weights(storage, update)
        except ValueError as error:
            _warn(update, str(error))
    return None


def read_trained_weights(storage: Storage, update: int) -> Mapping[str, Tensor]:
    """Read the EMA of the weights, or the weights if the run keeps no EMA.

    No other file is read: sampling does not need the optimizer's state, which is twice as large.

    Raises:
        ValueError: If there is no such checkpoint, or a file is missing, changed or unreadable.
    """
    folder = checkpoint_name(update)
    try:
        manifest = _read_manifest(storage, folder)
        files = _trained_files(manifest)
        for name in files:
            _check_file(storage, folder, name, manifest)
        return TensorFiles([storage.file(f"{folder}/{name}") for name in files])
    except _UNREADABLE as error:
        raise _unreadable(storage, folder, error) from error


def trained_identity(storage: Storage, update: int) -> str:
    """Hash the manifest's entries of the files that `read_trained_weights` reads (SHA-256). No tensor is read.

    Raises:
        ValueError: If there is no such checkpoint.
    """
    folder = checkpoint_name(update)
    try:
        files = _trained_files(_read_manifest(storage, folder))
    except _UNREADABLE as error:
        raise _unreadable(storage, folder, error) from error
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _trained_files(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return file name -> fingerprint for the EMA of the weights, or for the weights if there is no EMA."""
    kind = EMA if any(_kind(name) == EMA for name in manifest["files"]) else WEIGHTS
    return {name: fingerprint for name, fingerprint in manifest["files"].items() if _kind(name) == kind}


def _kind(name: str) -> str:
    """Return the kind of a file: `weights` for `weights-00000.safetensors`."""
    return name.rpartition("-")[0]


def _saver(tensors: Mapping[str, Tensor]) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        save_file(dict(tensors), path)
        # Opening the file compares its header with its length.
        TensorFiles([path])

    return save


def _sealed(manifest: Mapping[str, Any]) -> str:
    """Format the manifest as JSON with a checksum of itself."""
    return json.dumps({**manifest, "sha256": _digest(manifest)}, indent=1)


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _read_manifest(storage: Storage, folder: str) -> dict[str, Any]:
    """Read the manifest without its checksum.

    Raises:
        ValueError: If it is damaged.
        OSError: If it cannot be read.
    """
    manifest = json.loads(storage.read(f"{folder}/{MANIFEST}"))
    if not isinstance(manifest, dict) or manifest.pop("sha256", None) != _digest(manifest):
        raise ValueError(f"checkpoint {storage.location}/{folder}: {MANIFEST} is damaged")
    return manifest


def _open_files(storage: Storage, folder: str, manifest: Mapping[str, Any], kind: str) -> TensorFiles:
    return TensorFiles([storage.file(f"{folder}/{name}") for name in manifest["files"] if _kind(name) == kind])


def _check_file(storage: Storage, folder: str, name: str, manifest: Mapping[str, Any]) -> None:
    if storage.fingerprint(f"{folder}/{name}") != Fingerprint(**manifest["files"][name]):
        raise _damaged(storage, folder, name)


def _damaged(storage: Storage, folder: str, name: str) -> ValueError:
    return ValueError(f"checkpoint {storage.location}/{folder}: {name} is not what the manifest says, so it is damaged")


def _check_state(storage: Storage, found: Checkpoint, expected: Mapping[str, Any]) -> None:
    for key, value in expected.items():
        if found.state.get(key) != value:
            raise ValueError(
                f"checkpoint {storage.location}/{checkpoint_name(found.update)}: expected a run with {key}"
                f" {value!r}, got {found.state.get(key)!r}; choose another `name` or checkpoint storage, or remove it"
            )


def _unreadable(storage: Storage, folder: str, error: Exception) -> ValueError:
    return ValueError(
        f"checkpoint {storage.location}/{folder}: expected weights, optimizer and manifest, got: {error!r}"
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
