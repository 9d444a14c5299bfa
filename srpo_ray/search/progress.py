"""Reporter of Ray Tune that keeps the states of an experiment's runs in its progress file."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import ProgressReporter
from ray.tune.progress_reporter import TrialProgressCallback

from srpo_ray.live.state import RunState, Status, add_runs
from srpo_ray.rewards.pool.opening import Opening
from srpo_ray.runs.folder import RunFolder
from srpo_ray.search.budget_requests import is_asking, read_decisions

INTERVAL = 1.0
"""Least seconds between two looks at the trials."""

_STATUSES: Mapping[str, Status] = {"RUNNING": "running", "TERMINATED": "done", "ERROR": "failed"}


class RunsReporter(ProgressReporter):
    """Writes the state of every trial of a phase; Ray Tune pickles it and restores it with the phase."""

    def __init__(
        self,
        folder: Path,
        phase: str,
        describe: Callable[[str, Mapping[str, Any]], RunState],
        opening: Opening | None = None,
    ) -> None:
        """Choose what is written.

        Args:
            folder: Folder of the experiment.
            phase: What the runs are, for people.
            describe: Name and parameters of a trial -> its run, apart from its status.
            opening: Reward pools that may still load; until they are open, all runs wait.
        """
        self._folder = folder
        self._phase = phase
        self._describe = describe
        self._opening = opening or Opening(())
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
        self._next = 0.0

    def should_report(self, trials: list[Any], done: bool = False) -> bool:
        """Called by Ray Tune after every event."""
        return done or time.monotonic() >= self._next

    def report(self, trials: list[Any], done: bool, *sys_info: str) -> None:
        """Write the states of all trials."""
        self._next = time.monotonic() + INTERVAL
        decisions = read_decisions(self._folder)
        ready = self._opening.is_complete()
        add_runs(self._folder, self._phase, [self._state(trial, ready, decisions) for trial in trials])

    def report_ended(self, runs: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Write the states of runs that have ended before, and of which Ray Tune knows nothing.

        Args:
            runs: Name and values of each.
        """
        ended = [self._describe(name, values) for name, values in runs]
        if ended:
            add_runs(self._folder, self._phase, [replace(run, status=self._ended(run)) for run in ended])

    def _ended(self, run: RunState) -> Status:
        return "done" if RunFolder(self._folder / "trials" / run.name).finished.exists() else "stopped early"

    def _state(self, trial: Any, ready: bool, decisions: Mapping[str, bool]) -> RunState:
        run = self._describe(str(trial), trial.config)
        status = _STATUSES.get(trial.status, "waiting")
        if status == "done" and not RunFolder(self._folder / "trials" / run.name).finished.exists():
            status = "not started" if decisions.get(run.name) is False else "stopped early"
        elif status == "running" and not (ready and decisions.get(run.name, not is_asking(self._folder, run.name))):
            status = "waiting"
        return replace(run, status=status, error=_last_line(trial.get_error()) if status == "failed" else "")


class AwaitRewards(tune.Callback):
    """Callback that ends the search if a reward pool cannot be opened; trials wait for theirs, see `run_trial`.

    Args:
        opening: Pools that may still load.
    """

    def __init__(self, opening: Opening) -> None:
        self._opening = opening

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Ray Tune again and again; raises what has kept a pool from opening."""
        self._opening.is_complete()


class QuietTrials(TrialProgressCallback):
    """Printer of Ray Tune, in the place of its own, without lines about ended trials; those of runs say more."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Ray Tune when a trial has ended, also if a budget refused it and it has no result."""


def _last_line(error: object) -> str:
    """The last line of an error's text, which says most."""
    lines = [line.strip() for line in str(error or "").splitlines() if line.strip()]
    return lines[-1] if lines else ""
