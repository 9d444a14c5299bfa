"""State of all runs at one moment, from the progress file and the rows that the runs write."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from srpo_ray.live.state import ENDED, UNBEGUN, Progress, RunState
from srpo_ray.runs.activity import read_activity
from srpo_ray.runs.folder import CHECKPOINT_SAVED, STARTED, RunFolder, read_rows
from srpo_ray.runs.warnings import read_signs

_TAIL = 2**17
"""Bytes at the end of `updates.jsonl` that are read, because the file of a long run is read many times."""
_RECENT = 8
"""Number of updates over which the speed of a run is averaged."""
_REWARD = "reward/total/"
"""Prefix of the trained rewards of an update."""


@dataclass(frozen=True)
class Evaluation:
    """Shown metrics of one evaluation."""

    update: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class RunView:
    """One run at one moment."""

    state: RunState
    update: int = 0
    """Updates made."""
    rewards: Mapping[str, float] = field(default_factory=dict)
    """Trained rewards of the latest update, by name."""
    seconds: float | None = None
    """Mean seconds of the latest updates."""
    activity: str = ""
    """Work of the run besides updates, such as an evaluation, and how much of it is done."""
    evaluations: Sequence[Evaluation] = ()
    signs: Sequence[str] = ()
    """First sign of reward hacking of each metric, in order."""
    notices: Sequence[str] = ()
    """Events of the run other than its start and its saved checkpoints, in order."""

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.state.name

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds of the remaining updates, without evaluations; None where it is unknown."""
        if self.seconds is None or self.state.status != "running":
            return None
        return self.seconds * (self.state.num_updates - self.update)

    def value(self, metric: str) -> float | None:
        """The metric at the latest evaluation; None without it."""
        return self.evaluations[-1].values.get(metric) if self.evaluations else None

    def change(self, metric: str, index: int = -1) -> float | None:
        """The metric at an evaluation minus that of the base model; None if either is unknown, or for the base model.

        Args:
            metric: The metric.
            index: Index of the evaluation.
        """
        if not self.evaluations or self.evaluations[0].update != 0 or self.evaluations[index].update == 0:
            return None
        base, value = (self.evaluations[each].values.get(metric) for each in (0, index))
        return None if base is None or value is None else value - base


@dataclass(frozen=True)
class View:
    """All runs at one moment."""

    progress: Progress
    runs: Sequence[RunView] = field(default=())


class ViewReader:
    """Reader of views of one folder. The rows of a run that has ended are read once.

    Args:
        folder: Folder of the run or the experiment.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, tuple[object, RunView]] = {}

    def read(self, progress: Progress) -> View:
        """Read the rows of all runs.

        Args:
            progress: Progress file of the folder.

        Raises:
            OSError: If a file cannot be read.
            ValueError: If a row of reward-hacking detection is damaged.
        """
        return View(progress, [self._run(progress, run) for run in progress.runs])

    def _run(self, progress: Progress, run: RunState) -> RunView:
        folder = run_folder(self._folder, progress, run)
        if run.status in UNBEGUN:
            return RunView(run)
        files = (folder.updates, folder.evaluations, folder.hacking, folder.events, folder.activity)
        stamp = (run, () if run.status in ENDED else [_stamp(file) for file in files])
        known = self._known.get(run.name)
        if known is None or known[0] != stamp:
            known = self._known[run.name] = (stamp, read_run(folder, run, progress.metrics))
        return known[1]


def run_folder(folder: Path, progress: Progress, run: RunState) -> RunFolder:
    """Folder of one run of a progress file."""
    return RunFolder(folder if progress.kind == "run" else folder / "trials" / run.name)


def read_run(folder: RunFolder, run: RunState, metrics: Sequence[str]) -> RunView:
    """Read one run's rows.

    Args:
        folder: Folder of the run.
        run: The run as its driver sees it.
        metrics: Metrics of the evaluations to keep.
    """
    updates, activity = tail_rows(folder.updates), read_activity(folder)
    latest = updates[-1] if updates else {}
    seconds = [row["time/update"] for row in updates[-_RECENT:] if "time/update" in row]
    return RunView(
        run,
        update=latest.get("update", 0),
        rewards={name: value for name, value in latest.items() if name.startswith(_REWARD)},
        seconds=fmean(seconds) if seconds else None,
        activity="{} {}/{}".format(*activity) if activity else "",
        evaluations=[
            Evaluation(row["update"], {name: row[name] for name in metrics if name in row})
            for row in read_rows(folder.evaluations)
        ],
        signs=_first_signs(folder),
        notices=_notices(folder),
    )


def _first_signs(folder: RunFolder) -> list[str]:
    first: dict[tuple[str, str], str] = {}
    for sign in read_signs(folder):
        first.setdefault((sign.kind, sign.metric), f"update {sign.update}: {sign.message}")
    return list(first.values())


def tail_rows(path: Path) -> list[dict[str, Any]]:
    """Read the complete rows in the last part of a JSON-lines file; damaged ones are left out."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    rows = []
    for line in lines[1 if size > _TAIL else 0 : -1]:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return [row for row in rows if isinstance(row, dict)]


def _notices(folder: RunFolder) -> list[str]:
    """Events of a run other than its start and its saved checkpoints."""
    rows = [row for row in read_rows(folder.events) if row["event"] != CHECKPOINT_SAVED]
    starts = [row for row in rows if row["event"] == STARTED]
    texts = []
    for row in rows:
        event = f"restarted at update {row['update']}" if row["event"] == STARTED else str(row["event"])
        if row not in starts[:1]:
            texts.append(f"{event}: {row['message']}" if row.get("message") else event)
    return texts


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of change of a file; None without it."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns
