"""Checkpoints: whole tensors in safetensors, so that any number of workers reads what any number has written.

A checkpoint is a folder `update_000020`. Every worker writes the tensors that are its own, all at the same time:
`weights`, `optimizer` and, where the run keeps one, `ema`; further kinds of tensors have files of their own.
`manifest.json`, with the size and SHA-256 of each file, comes last, when every file is on the disk: a folder without it
is no checkpoint. It has a checksum of its own. Older checkpoints are removed only after that.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from srpo_ray.config import RunConfig
from srpo_ray.errors import CheckpointError
from srpo_ray.runs.collectives import from_worker_0, gather, rank_and_world_size
from srpo_ray.runs.storage import Fingerprint, Storage

WEIGHTS, OPTIMIZER, EMA = "weights", "optimizer", "ema"
OLD, STATE, ROLLOUTS = "old", "state", "rollouts"
"""Further tensors, which few checkpoints have: weights of role `old`, the algorithm's state, and by sample the clean
tokens that the next updates reuse."""
MANIFEST = "manifest.json"

_UNREADABLE = (OSError, json.JSONDecodeError, UnicodeDecodeError, RecursionError, SafetensorError)


class TensorFiles(Mapping[str, Tensor]):
    """The tensors of several safetensors files, each read when it is asked for."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Map the files.

        Raises:
            SafetensorError: If one is no such file, or is cut short.
            OSError: If one cannot be read.
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
    """One whole checkpoint; its tensors are read one by one."""

    update: int
    """Updates made."""
    weights: Mapping[str, Tensor]
    """Parameter name -> float32 weights."""
    optimizer: Mapping[str, Tensor]
    """`<parameter name>/<state>` -> float32 state of the optimizer."""
    ema: Mapping[str, Tensor]
    """Parameter name -> float32 the EMA of the weights; empty if the run keeps none."""
    state: Mapping[str, Any]
    """What else belongs to it: which run it is of, and how far that has come."""
    extra: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """Kind -> name -> further tensors; kinds that have none are left out."""


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
    """Write a checkpoint, then remove all but the `kept` newest; all workers must call.

    Args:
        storage: Where the run's checkpoints are.
        update: Updates made.
        weights: Parameter name -> whole weights, those that this worker writes.
        optimizer: `<parameter name>/<state>` -> whole state, likewise.
        ema: Parameter name -> whole average, likewise; empty if the run keeps none.
        state: Plain values; JSON.
        kept: Checkpoints to keep, at least 1.
        protected: Step whose checkpoint stays, however old.
        extra: Kind -> name -> further tensors that this worker writes.

    Raises:
        CheckpointError: On every worker, if one of them could not write; the checkpoints before are as they were.
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
        # A later one was damaged, or this run would have gone on from it.
        newest = [each for each in complete_checkpoints(storage) if each <= update][-kept:]
        spared = {checkpoint_name(each) for each in (*newest, protected) if each}
        for old in storage.folders():
            # With what a killed process left unfinished.
            if old.startswith("update_") and old not in spared:
                storage.remove(old)

    _on_worker_0(finish, storage, update)


def run_identity(config: RunConfig) -> dict[str, Any]:
    """What a checkpoint and the run that goes on from it must have in common, by config key.

    Model and adapters decide what the tensors are; seed, batch and algorithm decide what update `step` draws: every
    draw is addressed by them, so no state of a generator has to be kept.
    """
    return {
        "model.path": config.model.path,
        "model.lora": config.model.lora.model_dump(mode="json") if config.model.lora else None,
        "algorithm.type": config.algorithm.type,
        "seed": config.seed,
        "training.batch_size": config.training.batch_size,
    }


def checkpoint_name(update: int) -> str:
    """Folder of a update's checkpoint."""
    return f"update_{update:06d}"


def complete_checkpoints(storage: Storage) -> list[int]:
    """Steps of the checkpoints that were written to their end, oldest first."""
    names = [name for name in storage.folders() if name.startswith("update_")]
    return [int(name.removeprefix("update_")) for name in names if storage.exists(f"{name}/{MANIFEST}")]


def _warn(_step: int, problem: str) -> None:
    warnings.warn(f"{problem}; using the checkpoint before it", stacklevel=3)


def load_checkpoint(
    storage: Storage, expected: Mapping[str, Any], tell: Callable[[int, str], None] = _warn
) -> Checkpoint | None:
    """The newest checkpoint that is whole, the same on every worker; all workers must call.

    Each worker checks its share of the files. Damaged checkpoints are passed over.

    Args:
        storage: Where the run's checkpoints are.
        expected: What a checkpoint's `state` must say: which run it is of.
        tell: Called on worker 0 for each damaged checkpoint, with its update and what is wrong.

    Returns:
        None if there is none.

    Raises:
        ValueError: If it is of another run.
    """
    for update in reversed(from_worker_0(lambda: complete_checkpoints(storage))):
        found, problem = None, None
        try:
            found = read_checkpoint(storage, update, part=rank_and_world_size())
        except ValueError as error:
            problem = str(error)
        problems = [text for text in gather(problem) if text]
        if not problems and found:
            _check_state(storage, found, expected)
            return found
        if rank_and_world_size()[0] == 0:
            tell(update, problems[0])
    return None


def read_checkpoint(storage: Storage, update: int, part: tuple[int, int] = (0, 1)) -> Checkpoint:
    """Read a checkpoint and check it against its manifest.

    Args:
        storage: Where it is.
        update: Updates made.
        part: `(i, n)` checks the contents of the i-th of every n files only; all are looked at.

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


def latest_trained(storage: Storage) -> tuple[int, Mapping[str, Tensor]] | None:
    """`read_trained_weights` of the newest checkpoint that has them whole; damaged ones are named in a warning."""
    for update in reversed(complete_checkpoints(storage)):
        try:
            return update, read_trained_weights(storage, update)
        except ValueError as error:
            _warn(update, str(error))
    return None


def read_trained_weights(storage: Storage, update: int) -> Mapping[str, Tensor]:
    """the EMA of the weights, or the weights where the run keeps no average.

    No other file is looked at: the optimizer's state, twice as large, is nothing that an image needs.

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
    """SHA-256 of what the manifest says of the files that `read_trained_weights` reads; no tensor is read.

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
    """File name -> fingerprint of the EMA of the weights, or of the weights where there is no average."""
    kind = EMA if any(_kind(name) == EMA for name in manifest["files"]) else WEIGHTS
    return {name: fingerprint for name, fingerprint in manifest["files"].items() if _kind(name) == kind}


def _kind(name: str) -> str:
    """`weights` of `weights-00000.safetensors`."""
    return name.rpartition("-")[0]


def _saver(tensors: Mapping[str, Tensor]) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        save_file(dict(tensors), path)
        # Reads its table of contents and compares it with the file's length.
        TensorFiles([path])

    return save


def _sealed(manifest: Mapping[str, Any]) -> str:
    """The manifest as JSON, with a checksum of its own."""
    return json.dumps({**manifest, "sha256": _digest(manifest)}, indent=1)


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _read_manifest(storage: Storage, folder: str) -> dict[str, Any]:
    """The manifest without its checksum.

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
        raise ValueError(
            f"checkpoint {storage.location}/{folder}: {name} is not what the manifest says, so it is damaged"
        )


def _check_state(storage: Storage, found: Checkpoint, expected: Mapping[str, Any]) -> None:
    for key, value in expected.items():
        if found.state.get(key) != value:
            raise ValueError(
                f"checkpoint {storage.location}/{checkpoint_name(found.update)}: expected one of a run with {key}"
                f" {value!r}, got {found.state.get(key)!r}; choose another `name` or checkpoint storage, or remove it"
            )


def _unreadable(storage: Storage, folder: str, error: Exception) -> ValueError:
    return ValueError(
        f"checkpoint {storage.location}/{folder}: expected weights, optimizer and manifest, got: {error!r}"
    )


def _not_written(storage: Storage, update: int, reason: str) -> CheckpointError:
    try:
        before = complete_checkpoints(storage)
        kept = f"the one of update {before[-1]} stays the newest" if before else "there is none before it"
    except OSError:
        kept = "those before it cannot be listed either"
    return CheckpointError(
        f"the checkpoint of update {update} could not be written to {storage.location}: {reason}; {kept}"
    )


def _on_worker_0(act: Callable[[], None], storage: Storage, update: int) -> None:
    """Let worker 0 do something that the others wait for; what it cannot do, all of them raise."""

    def attempt() -> str | None:
        try:
            act()
        except OSError as error:
            return str(error)
        return None

    problem = from_worker_0(attempt)
    if problem:
        raise _not_written(storage, update, problem)
