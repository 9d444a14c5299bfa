"""Progress file of a run or an experiment: what its driver knows and the folders of the runs do not say."""

import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from srpo_ray.evaluation.results import Kind
from srpo_ray.files import write_text

FILE = "progress.json"
"""Name of the progress file in the folder of a run or an experiment."""

Status = Literal["waiting", "running", "done", "stopped early", "failed", "interrupted", "not started"]
"""`not started`: the budget of the experiment had no room for the run."""
State = Literal["running", "finished", "failed", "interrupted"]
ENDED: tuple[Status, ...] = ("done", "stopped early", "failed")
"""Statuses of runs that have begun and do not continue."""
UNBEGUN: tuple[Status, ...] = ("waiting", "not started")
"""Statuses of runs without a folder."""


@dataclass(frozen=True)
class RunState:
    """One run as its driver sees it."""

    name: str
    """Name of the run and of its folder."""
    num_updates: int
    """Updates of the whole run."""
    status: Status = "waiting"
    kind: Kind = "repeat"
    group: str = ""
    """Name of the arm or ablation that the run belongs to."""
    label: str = ""
    """Description of the run for people."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Title -> text of each column of the table that tells the runs apart."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Dotted config path -> value, over the base config."""
    seed: int = 0
    error: str = ""
    """Reason of a failure."""


@dataclass(frozen=True)
class Progress:
    """State of a run or an experiment."""

    title: str
    kind: Literal["run", "experiment"]
    total: int
    """Number of runs."""
    metrics: Sequence[str]
    """Metrics of an evaluation to show, the objective first."""
    started: float
    """Unix time of this start of the command, in seconds."""
    written: float
    """Unix time of the latest heartbeat of the driver, in seconds."""
    host: str = ""
    pid: int = 0
    state: State = "running"
    phase: str = ""
    """Part of the experiment that is at work."""
    message: str = ""
    """Reason of an end that was not planned."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Further facts of the status line."""
    runs: Sequence[RunState] = ()

    @classmethod
    def start(cls, title: str, kind: Literal["run", "experiment"], total: int, metrics: Sequence[str]) -> "Progress":
        """Progress of a command that starts now in this process."""
        now = time.time()
        return cls(title, kind, total, metrics, now, now, socket.gethostname(), os.getpid())

    @property
    def num_done(self) -> int:
        """Number of runs that have ended."""
        return sum(run.status in ENDED for run in self.runs)


_ADAPTER = TypeAdapter(Progress)
_LOCK = threading.Lock()
"""The thread of Ray Tune's loop and the one that writes heartbeats change the same file."""


def read_progress(folder: Path) -> Progress | None:
    """Read the progress file of a folder; None without one.

    Raises:
        ValueError: If the file is damaged.
        OSError: If it cannot be read.
    """
    file = folder / FILE
    try:
        return _ADAPTER.validate_json(file.read_bytes())
    # A file in place of the folder has none either.
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        raise ValueError(f"expected the progress of a run in {file}, got damaged content; remove the file") from error


def write_progress(folder: Path, progress: Progress) -> None:
    """Write the progress file of a folder atomically."""
    write_text(folder / FILE, _ADAPTER.dump_json(progress, indent=1).decode() + "\n")


def change_progress(folder: Path, **changes: Any) -> Progress | None:
    """Change fields of the progress file with a heartbeat, and return the new state; None without a file.

    Args:
        folder: Folder of the file.
        changes: Fields of `Progress` with their new values.
    """
    with _LOCK:
        known = read_progress(folder)
        if known is None:
            return None
        changed = replace(known, written=time.time(), **changes)
        write_progress(folder, changed)
        return changed


def add_runs(folder: Path, phase: str, runs: Sequence[RunState]) -> None:
    """Add runs of a phase to the progress file; a run of the same name is replaced."""
    with _LOCK:
        known = read_progress(folder)
        if known is None:
            return
        merged = {run.name: run for run in known.runs} | {run.name: run for run in runs}
        if list(merged.values()) != list(known.runs) or phase != known.phase:
            write_progress(folder, replace(known, written=time.time(), phase=phase, runs=list(merged.values())))


def raise_total(folder: Path, number: int) -> None:
    """Add to the number of runs in the progress file, for runs that were not planned when the command began.

    Args:
        folder: Folder of the file.
        number: Runs to add.
    """
    with _LOCK:
        known = read_progress(folder)
        if known is not None:
            write_progress(folder, replace(known, written=time.time(), total=known.total + number))
