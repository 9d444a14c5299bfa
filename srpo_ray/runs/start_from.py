"""Start of a run from another run's newest checkpoint: weights, optimizer state and history are taken over."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from srpo_ray.config import RunConfig, load_run
from srpo_ray.config.continuation import check_continues, evaluated_alike, tested_alike
from srpo_ray.files import read_json, replacing, write_text
from srpo_ray.runs.checkpoint import copy_checkpoint
from srpo_ray.runs.checkpoint_files import complete_checkpoints
from srpo_ray.runs.folder import RunFolder, read_rows
from srpo_ray.runs.inputs import contrast_hashes, read_inputs
from srpo_ray.runs.storage import Storage


def check_start(config: RunConfig) -> None:
    """Check that the run which `start_from` names is finished, and that this run can continue from its checkpoint.

    A run that has taken over the checkpoint no longer needs the other run.

    Raises:
        ValueError: If not.
    """
    if config.start_from is not None and not RunFolder(Path(config.run_root) / config.name).start.exists():
        _find_start(config, config.start_from)


def take_over(config: RunConfig, folder: RunFolder) -> None:
    """Copy the newest checkpoint of the run that `start_from` names, and that run's history, into a new run's folder.

    A file of the checkpoint is linked where both lie on one local file system. The costs of all updates are copied, and
    the evaluations if both runs are evaluated alike. `start.json` marks the end, so an interrupted copy is repeated.

    Args:
        config: The new run.
        folder: Its folder.

    Raises:
        ValueError: If the other run cannot be continued, or its checkpoint is damaged.
    """
    if config.start_from is None or folder.start.exists():
        return
    before, source, update = _find_start(config, config.start_from)
    copy_checkpoint(Storage(source.checkpoints), Storage(folder.checkpoints), update)
    _copy_rows(source.updates, folder.updates, lambda row: row["update"] <= update)
    if _evaluated_alike(before, source, config):
        for name in ("evaluations", "scores", "hacking"):
            _copy_rows(getattr(source, name), getattr(folder, name), lambda row: row["update"] <= update)
        _copy_file(source.base_images, folder.base_images)
    if tested_alike(before, config):
        _copy_rows(source.test_scores, folder.test_scores, lambda row: row["update"] == 0)
    write_text(folder.start, json.dumps({"run": str(source.path), "update": update}) + "\n")


def started_at(folder: RunFolder) -> int:
    """Return the updates that a run took over from the run that it continues; 0 if it started from the base model."""
    return read_json(folder.start)["update"] if folder.start.exists() else 0


def continued(config: RunConfig) -> tuple[int, bool] | None:
    """Find what a run takes over from the finished run that `start_from` names, without a check of the two configs.

    Args:
        config: The new run.

    Returns:
        Updates made at the newest checkpoint of that run, and true if its evaluations are taken over; None if there is
        no finished run with a checkpoint.
    """
    source = RunFolder(config.start_from or "")
    if config.start_from is None or not source.config.exists() or not source.finished.exists():
        return None
    complete = complete_checkpoints(Storage(source.checkpoints))
    return (complete[-1], _evaluated_alike(load_run([source.config]), source, config)) if complete else None


def _evaluated_alike(before: RunConfig, source: RunFolder, config: RunConfig) -> bool:
    """Test that the evaluations of two runs compare; the other model of their contrast has the same content."""
    if not evaluated_alike(before, config):
        return False
    now = contrast_hashes(config)
    recorded = read_inputs(source.inputs)
    return all(recorded.get(key) == sources for key, sources in now.items())


def _find_start(config: RunConfig, start_from: str) -> tuple[RunConfig, RunFolder, int]:
    """Find the config and folder of the run to continue, and the update of its newest checkpoint."""
    source = RunFolder(start_from)
    if not source.config.exists() or not source.finished.exists():
        raise ValueError(
            f"start_from: expected the folder of a finished run, with config.yaml and finished.json, got {start_from};"
            " `srpo-ray train` prints the folder when it ends"
        )
    before = load_run([source.config])
    complete = complete_checkpoints(Storage(source.checkpoints))
    if not complete:
        raise ValueError(
            f"start_from: expected a run with a checkpoint, got {start_from}, which has none in {source.checkpoints};"
            " restore that storage, or continue another run"
        )
    try:
        check_continues(before, config, complete[-1])
    except ValueError as error:
        raise ValueError(f"start_from {start_from}: {error}") from error
    return before, source, complete[-1]


def _copy_rows(source: Path, target: Path, kept: Callable[[dict[str, Any]], bool]) -> None:
    rows = [row for row in read_rows(source) if kept(row)]
    if rows:
        write_text(target, "".join(json.dumps(row) + "\n" for row in rows))


def _copy_file(source: Path, target: Path) -> None:
    if source.exists():
        with replacing(target) as unfinished:
            shutil.copyfile(source, unfinished)
