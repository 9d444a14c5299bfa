"""Searchers of an arm's space in Ray Tune: random draws, or TPE that a resumed experiment continues."""

import json
import math
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ray.tune.search import ConcurrencyLimiter, SearchAlgorithm, Searcher
from ray.tune.search.basic_variant import BasicVariantGenerator

from srpo_ray.config import ExperimentConfig
from srpo_ray.config.base import folder_name
from srpo_ray.config.search import SearchDimension
from srpo_ray.evaluation.results import TrialRow
from srpo_ray.runs.folder import RunFolder, append_row, read_rows
from srpo_ray.search.proposals import Observation, propose
from srpo_ray.search.selection import read_row

OLDEST_OPTUNA = 5
"""Oldest major version of Optuna whose trials have constraints."""


def check_searcher(config: ExperimentConfig) -> None:
    """Check that the searcher is installed, if a space is searched with it.

    Raises:
        ValueError: If it is not, or too old.
    """
    if config.search.searcher == "random" or not any(arm.space for arm in config.arms):
        return
    try:
        version = metadata.version("optuna")
    except metadata.PackageNotFoundError:
        version = ""
    if not version or int(version.partition(".")[0]) < OLDEST_OPTUNA:
        raise ValueError(
            f"search.searcher: expected optuna {OLDEST_OPTUNA} or later to be installed, got"
            f" {f'optuna {version}' if version else 'none'}; run `pip install 'srpo_ray[optuna]'`, or set"
            " search.searcher to random"
        )


def searched_metrics(config: ExperimentConfig) -> dict[str, Any]:
    """Metrics that trials are searched by, and their directions; the one that chooses the trial comes first."""
    return {config.objective: config.mode} | dict(config.objectives)


def observe(row: TrialRow, values: Mapping[str, Any], config: ExperimentConfig, *, ended: bool = True) -> Observation:
    """Describe a trial to the searcher.

    Args:
        row: The trial, read from its folder.
        values: Values that were drawn for it.
        config: Objectives and limits.
        ended: True if the trial is over; a run without its last update is then one that was stopped early.
    """
    if row.failed:
        return Observation(values, "failed")
    if not row.ended and not ended:
        return Observation(values, "running")
    found = [row.value(metric) for metric in searched_metrics(config)]
    objectives = [value for value in found if value is not None]
    if len(objectives) < len(found):
        return Observation(values, "failed")
    state = "finished" if row.ended else "stopped"
    excess = excess_falls(row, config.max_fall) if config.search.constrained else {}
    return Observation(values, state, objectives, excess, int(row.evaluated["update"]))


def excess_falls(row: TrialRow, max_fall: Mapping[str, float]) -> dict[str, float]:
    """Amount by which the fall of each limited metric exceeds its limit; above 0 breaks it.

    Metrics that the trial does not have are left out.
    """
    falls = {
        metric: row.history[0].get(metric, math.nan) - row.evaluated.get(metric, math.nan) - limit
        for metric, limit in max_fall.items()
        if row.history
    }
    return {metric: excess for metric, excess in falls.items() if math.isfinite(excess)}


class TpeSearcher(Searcher):
    """Searcher of Ray Tune that draws each trial from all trials before it.

    Every draw is appended to a file before Ray Tune sees it, and results are read from the folders of the trials. So a
    search whose driver was killed forgets no trial, and repeats the draws that Ray Tune has lost.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        space: Mapping[str, SearchDimension],
        folder: Path,
        arm: str,
        known: Sequence[Observation] = (),
        first: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Continue the search of the arm in the experiment's folder, or begin it.

        Args:
            config: Objectives, limits and settings of the search.
            space: Search space of the arm, with absolute paths.
            folder: Folder of the experiment.
            arm: Name of the arm.
            known: Trials of earlier experiments.
            first: Values of the first trials, in order; later ones are drawn.
        """
        super().__init__(metric=config.objective, mode=config.mode)
        self._config, self._space, self._folder, self._arm = config, dict(space), folder, folder_name(arm)
        self._known, self._first = list(known), [dict(values) for values in first]
        self._numbers: dict[str, int] = {}
        """Ray Tune's id of a trial -> its number, from 1."""
        self._asked = 0
        self._over: dict[int, Observation] = {}
        """Number of a trial that has ended -> what it gave; its folder is read once."""

    @property
    def _journal(self) -> Path:
        return self._folder / "searches" / f"{self._arm}.jsonl"

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """Called by Ray Tune for the values of the next trial."""
        number = self._asked + 1
        values = self._draws().get(number)
        if values is None:
            values = self._next(number)
            self._journal.parent.mkdir(parents=True, exist_ok=True)
            append_row(self._journal, {"trial": number, "values": values})
        self._asked, self._numbers[trial_id] = number, number
        choices = {path for path in values if self._space[path].choice is not None}
        return {path: json.dumps(value) if path in choices else value for path, value in values.items()}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Called by Ray Tune at each evaluation of a trial."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Called by Ray Tune when a trial has ended, failed or been stopped."""
        append_row(self._journal, {"trial": self._numbers[trial_id], "ended": "failed" if error else "ended"})

    def save(self, checkpoint_path: str) -> None:
        """Called by Ray Tune beside its own state, which knows the trials up to now."""
        state = {"asked": self._asked, "numbers": self._numbers}
        Path(checkpoint_path).write_text(json.dumps(state), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Called by Ray Tune when it resumes. `suggest` repeats the draws of the trials that it has lost."""
        state = json.loads(Path(checkpoint_path).read_text(encoding="utf-8"))
        self._asked, self._numbers = state["asked"], state["numbers"]

    def _draws(self) -> dict[int, dict[str, Any]]:
        return {row["trial"]: row["values"] for row in read_rows(self._journal) if "values" in row}

    def _next(self, number: int) -> dict[str, Any]:
        if number <= len(self._first):
            return self._first[number - 1]
        return propose(
            self._space,
            [*self._known, *self._observations()],
            [*searched_metrics(self._config).values()],
            startup_trials=self._config.search.random_trials,
            seed=self._config.search.seed,
            number=number,
        )

    def _observations(self) -> list[Observation]:
        ended = {row["trial"]: row["ended"] for row in read_rows(self._journal) if "ended" in row}
        return [self._observed(number, values, ended.get(number)) for number, values in self._draws().items()]

    def _observed(self, number: int, values: Mapping[str, Any], ended: str | None) -> Observation:
        if number in self._over:
            return self._over[number]
        name = f"{self._arm}_trial_{number}"
        error = "failed" if ended == "failed" else None
        row = read_row(RunFolder(self._folder / "trials" / name), "trial", name, values, 0, error)
        found = observe(row, values, self._config, ended=ended is not None)
        # A resumed experiment trains failed trials again.
        if ended and found.state != "failed":
            self._over[number] = found
        return found


def search_algorithm(
    config: ExperimentConfig,
    space: Mapping[str, SearchDimension],
    folder: Path,
    arm: str,
    known: Sequence[Observation] = (),
    first: Sequence[Mapping[str, Any]] = (),
) -> SearchAlgorithm | ConcurrencyLimiter:
    """Build the searcher that draws the trials of one arm.

    Args:
        config: The experiment.
        space: Search space of the arm, with absolute paths.
        folder: Folder of the experiment.
        arm: Name of the arm.
        known: Trials of earlier experiments that the searcher learns from.
        first: Values of the first trials.
    """
    if config.search.searcher == "random":
        return BasicVariantGenerator(max_concurrent=config.concurrency, random_state=config.search.seed)
    return ConcurrencyLimiter(TpeSearcher(config, space, folder, arm, known, first), config.concurrency)
