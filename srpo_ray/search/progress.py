"""Progress table of the runs in the terminal while Ray Tune works."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray.tune import ProgressReporter
from rich import box
from rich.console import Console
from rich.table import Table

from srpo_ray.evaluation.numbers import number, signed
from srpo_ray.runs.folder import RunFolder, read_rows

INTERVAL = 15.0
"""Seconds between two tables."""

_STATES = {"PENDING": "waiting", "RUNNING": "running", "TERMINATED": "done", "ERROR": "failed"}


class RunsTable(ProgressReporter):
    """Prints all runs every 15 seconds and at the end; updates are read from the runs' own files."""

    def __init__(
        self,
        title: str,
        trials_folder: Path,
        objective: str,
        num_updates: Callable[[str], int],
        settings: Callable[[Mapping[str, Any]], Mapping[str, str]],
        budget: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Choose what is shown.

        Args:
            title: What the runs are.
            trials_folder: Folder of the runs' folders, which are named like Tune's trials.
            objective: Metric of an evaluation to show, with its change since update 0.
            num_updates: A run's name -> updates of it as a whole.
            settings: A trial's parameters -> title and text of each column.
            budget: Line on what is spent of the experiment's budget; None without a budget.
        """
        self.title = title
        self.trials_folder = trials_folder
        self.objective = objective
        self.num_updates = num_updates
        self.settings = settings
        self.budget = budget
        self._start = time.time()
        self._next = 0.0

    def setup(
        self,
        start_time: float | None = None,
        total_samples: int | None = None,
        metric: str | None = None,
        mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Called by Ray Tune when it starts, or starts again."""
        self._start = start_time or time.time()
        self._next = 0.0

    def should_report(self, trials: list[Any], done: bool = False) -> bool:
        """Called by Ray Tune after every event."""
        return done or time.time() - self._start >= self._next

    def report(self, trials: list[Any], done: bool, *sys_info: str) -> None:
        """Print the table."""
        elapsed = time.time() - self._start
        self._next = elapsed + INTERVAL
        minutes, seconds = divmod(int(elapsed), 60)
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, title_justify="left")
        table.title = f"{self.title}, {minutes}:{seconds:02d}"
        rows = [self._row(trial) for trial in trials]
        for column in dict.fromkeys(name for row in rows for name in row):
            table.add_column(column, no_wrap=True)
        for row in rows:
            table.add_row(*(row.get(column.header, "") for column in table.columns))  # pyright: ignore[reportArgumentType, reportCallIssue]
        table.caption, table.caption_justify = self.budget(), "left"
        # Tune pickles its reporter, and a console cannot be.
        Console(width=None if Console().is_terminal else 120).print(table)

    def _row(self, trial: Any) -> dict[str, str]:
        folder = RunFolder(self.trials_folder / str(trial))
        updates, evaluations = read_rows(folder.updates), read_rows(folder.evaluations)
        row = {"run": str(trial), **self.settings(trial.config)}
        row["update"] = f"{updates[-1]['update'] if updates else 0}/{self.num_updates(str(trial))}"
        first, last = (evaluations[index].get(self.objective) if evaluations else None for index in (0, -1))
        row[self.objective] = number(last)
        row["since update 0"] = signed(last - first) if first is not None and last is not None else "-"
        stopped = trial.status == "TERMINATED" and not folder.finished.exists()
        state = "stopped early" if stopped else _STATES.get(trial.status, trial.status.lower())
        row["state"] = f"{state}, hacking" if read_rows(folder.hacking) else state
        return row
