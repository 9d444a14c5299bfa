"""Following of a run or an experiment from its files alone, on this or another machine that sees its folder."""

import os
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from srpo_ray.config import load_run
from srpo_ray.live.display import Display, open_display
from srpo_ray.live.follow import UNREADABLE
from srpo_ray.live.lines import duration, summary
from srpo_ray.live.output import LOG
from srpo_ray.live.state import Progress, RunState, State, Status, read_progress
from srpo_ray.live.table import view_table
from srpo_ray.live.view import View, ViewReader
from srpo_ray.runs.folder import RunFolder

STALE_S = 180.0
"""Age of the latest heartbeat from which a driver counts as lost, in seconds."""
_UNCHANGED_S = 20.0
"""Seconds without a new heartbeat after which the missing process of the driver shows that it is lost.

Clocks of machines differ, so the age of a heartbeat alone counts only after this time too.
"""
_WIDTH = 120
"""Columns of a table in a file or a pipe."""
_OF_RUN: dict[Status, State] = {
    "done": "finished",
    "stopped early": "finished",
    "failed": "failed",
    "interrupted": "interrupted",
}
"""Status of a run of an experiment -> state of the run on its own."""


def watch(folder: Path) -> int:
    """Follow a run or an experiment on this terminal until it ends.

    Args:
        folder: Folder of a run, of an experiment, or of a run of an experiment.

    Returns:
        0 if it finished; 1 if it failed, was interrupted, or has lost its driver.

    Raises:
        ValueError: If the folder is none of a run or an experiment.
    """
    progress, reader, pulse = progress_of(folder), ViewReader(folder), Pulse()
    display = open_display(folder / LOG)
    try:
        while True:
            _show(display, reader, progress)
            if progress.state != "running" or pulse.is_lost(progress):
                break
            time.sleep(display.interval)
            progress = _again(folder, progress)
    finally:
        display.close()
    print(outcome(folder, progress), file=sys.stderr)
    return 0 if progress.state == "finished" else 1


def show_once(folder: Path) -> int:
    """Print the state of a run or an experiment.

    Args:
        folder: As for `watch`.

    Returns:
        0 if it finished or is in progress; 1 if it failed, was interrupted, or has lost its driver.

    Raises:
        ValueError: If the folder is none of a run or an experiment.
    """
    progress = progress_of(folder)
    view = ViewReader(folder).read(progress)
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    console.print(view_table(view, height=len(view.runs) + 100))
    console.print(outcome(folder, progress), markup=False, highlight=False, soft_wrap=True)
    return 0 if progress.state == "finished" or (progress.state == "running" and not _is_old(progress)) else 1


def outcome(folder: Path, progress: Progress) -> str:
    """Describe the state for the end of the output, with the report and what to do."""
    report = f"; report: {folder / 'report.html'}" if (folder / "report.html").exists() else ""
    if progress.state == "running":
        driver = f"process {progress.pid} on {progress.host}" if progress.pid else "unknown process"
        age = duration(time.time() - progress.written)
        if _is_old(progress):
            return (
                f"no sign of life of its driver ({driver}) for {age}: it was killed or hangs; the command that began"
                f" the work continues it{report}"
            )
        return f"in progress, last sign of life {age} ago ({driver}){report}"
    done = f", {summary(View(progress))}" if progress.kind == "experiment" else ""
    reason = f": {progress.message}" if progress.message else ""
    return f"{progress.state}{done}{reason}{report}"


class Pulse:
    """Observer of the heartbeats of a driver."""

    def __init__(self) -> None:
        self._written = 0.0
        self._since = time.monotonic()

    def is_lost(self, progress: Progress) -> bool:
        """Test whether the driver of work in progress has died or hangs.

        Args:
            progress: State that was just read.
        """
        if progress.written != self._written:
            self._written, self._since = progress.written, time.monotonic()
        unchanged = time.monotonic() - self._since
        return unchanged >= STALE_S or (unchanged >= _UNCHANGED_S and _is_old(progress))


def _is_old(progress: Progress) -> bool:
    """Test whether the latest heartbeat is old, or the process that wrote it is gone from this machine."""
    age = time.time() - progress.written
    return age > STALE_S or (age > _UNCHANGED_S and progress.host == socket.gethostname() and not _exists(progress.pid))


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _show(display: Display, reader: ViewReader, progress: Progress) -> None:
    try:
        display.show(reader.read(progress))
    except UNREADABLE as error:
        display.note(f"the rows cannot be read now: {error}")


def _again(folder: Path, known: Progress) -> Progress:
    """Read the state again; the known one while a network share does not answer."""
    try:
        return progress_of(folder)
    except OSError:
        return known


def progress_of(folder: Path) -> Progress:
    """Read the state of a run or an experiment from its folder.

    Raises:
        ValueError: If the folder is none of a run or an experiment, or a file in it is damaged.
        OSError: If a file cannot be read.
    """
    progress = read_progress(folder)
    if progress is not None:
        return progress
    run = RunFolder(folder)
    if not run.config.is_file():
        raise ValueError(
            f"expected the folder of a run or an experiment, with progress.json or config.yaml, got {folder}; give the"
            " folder that `srpo-ray train`, `sweep` or `compare` printed when it began"
        )
    experiment = read_progress(folder.parent.parent) if folder.parent.name == "trials" else None
    found = [] if experiment is None else [each for each in experiment.runs if each.name == folder.name]
    if experiment is None or not found:
        return _without_driver(run)
    state = _OF_RUN.get(found[0].status, experiment.state)
    return replace(experiment, title=folder.name, kind="run", total=1, phase="", state=state, facts={}, runs=found)


def _without_driver(folder: RunFolder) -> Progress:
    """State of a run whose driver has left no progress file, from the files of its workers."""
    config, finished = load_run([folder.config]), folder.finished.exists()
    files = [file for file in (folder.config, folder.updates, folder.evaluations, folder.events) if file.exists()]
    metrics = [f"evaluator/{model.name}" for model in config.evaluation.held_out]
    run = RunState(folder.path.name, config.training.num_updates, "done" if finished else "running", seed=config.seed)
    times = [file.stat().st_mtime for file in files]
    state: State = "finished" if finished else "running"
    return Progress(folder.path.name, "run", 1, metrics, min(times), max(times), state=state, runs=[run])
