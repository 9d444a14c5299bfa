"""Search with promotion (synchronous successive halving): the best trials of a rung continue from their checkpoints."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from srpo_ray.config import ExperimentConfig
from srpo_ray.config.arm import Arm
from srpo_ray.config.base import folder_name
from srpo_ray.evaluation.results import CALLS, TrialRow
from srpo_ray.evaluation.search_parts import RungResult
from srpo_ray.search.phase import PlannedRun
from srpo_ray.search.selection import keeps

Train = Callable[[str, str, Sequence[PlannedRun]], list[TrialRow]]
"""Function that trains planned runs: phase, title, runs -> their rows in the same order."""


@dataclass(frozen=True)
class SearchInParts:
    """A search of one arm whose trials are trained in parts, each from the checkpoint of the part before it."""

    config: ExperimentConfig
    arm: Arm
    seed: int
    """Seed of all trials."""
    label: Callable[[Mapping[str, Any]], str]
    """Function from the values of a trial to its description for people."""
    folder_of: Callable[[str], str]
    """Function from the name of a run to its folder."""
    train: Train
    admit: Callable[[Sequence[PlannedRun], bool], set[str]]
    """Function that names the runs of a later part which start: a budget may have no room for others. The runs, the
    most important first; true if the part is not trained without each of them."""

    @property
    def name(self) -> str:
        """Beginning of the names of runs and phases."""
        return folder_name(self.arm.name)

    def run(self, name: str, values: Mapping[str, Any], changes: Mapping[str, Any], source: str | None) -> PlannedRun:
        """Plan the part of a trial.

        Args:
            name: Name of the run.
            values: Values of the trial.
            changes: Changes of the part to the base config, those values among them.
            source: Name of the run whose checkpoint it continues; None starts from the base model.
        """
        start_from = None if source is None else self.folder_of(source)
        return PlannedRun(name, "trial", self.label(values), dict(changes), self.seed, start_from, self.arm.name)


def order(rows: Sequence[TrialRow], config: ExperimentConfig) -> list[int]:
    """Order the rows of a part, the best first: those that keep every `max_fall`, then the others, by the objective.

    Rows that did not make all their updates, or have no value of the objective, are left out: no later part can
    continue them, or none should. Of equals, the first comes first.

    Args:
        rows: Rows of a part, after as many updates each.
        config: Objective and limits.
    """
    sign = 1 if config.mode == "max" else -1
    found: list[tuple[bool, float, int]] = []
    for index, row in enumerate(rows):
        # The weights of the last update continue, whichever evaluation stands for the run.
        last = replace(row, best_update=None)
        value = last.value(config.objective)
        if row.status == "finished" and value is not None:
            found.append((not keeps(last, config.max_fall), -sign * value, index))
    return [index for _, _, index in sorted(found)]


def search_by_promotion(
    search: SearchInParts, drawn: Sequence[Mapping[str, Any]]
) -> tuple[list[TrialRow], list[RungResult]]:
    """Train all trials to the end of the first rung, and the best of each rung to the end of the next one.

    Args:
        search: The search.
        drawn: Values of each trial.

    Returns:
        One row per trial that has started, of its last run, with the costs of all its rungs; and the rungs. A rung that
        the budget has no room for is not trained, and the trials of the one before are the last.
    """
    config, arm = search.config, search.arm
    alive, latest, rungs = list(range(len(drawn))), dict[int, TrialRow](), list[RungResult]()
    in_last_rung = set[int]()
    for number, rung in enumerate(config.search.scheduler.rungs, 1):
        runs = {trial: _rung_run(search, trial, drawn[trial], number, latest.get(trial)) for trial in alive}
        if rungs:
            admitted = search.admit([*runs.values()], False)
            # The best come first if a budget may refuse the last.
            ranked_runs = runs.items() if config.budget else sorted(runs.items())
            runs = {trial: run for trial, run in ranked_runs if run.name in admitted}
        if not runs:
            break
        title = f"search for {arm.name}, rung {number} to update {rung.updates}"
        trained = search.train(f"search_{search.name}_rung_{number}", title, [*runs.values()])
        found = {row.name: row for row in trained}
        rows = {trial: found[run.name] for trial, run in sorted(runs.items()) if run.name in found}
        rungs[-1:] = [replace(rung, promoted=len(rows)) for rung in rungs[-1:]]
        best = order([*rows.values()], config)
        if rungs and not best and (not rows or any(row.status == "stopped early" for row in rows.values())):
            # The budget has refused or stopped the whole rung: the rung before is the last.
            break
        ranked, before = [[*rows][index] for index in best], [latest.get(trial) for trial in rows]
        latest |= rows
        ordered, [*all_rows] = [rows[trial] for trial in ranked], rows.values()
        rungs.append(_rung_result(rung.updates, rung.set, before, all_rows, ordered, 0, config))
        in_last_rung, alive = set(rows), ranked[: rung.num_promoted(len(rows))]
    settings = [config.trial_settings(config.changes(arm, values)) for values in drawn]
    return [_trial_row(latest[trial], settings[trial], trial in in_last_rung) for trial in sorted(latest)], rungs


def _rung_run(
    search: SearchInParts, trial: int, values: Mapping[str, Any], number: int, before: TrialRow | None
) -> PlannedRun:
    config = search.config
    changes = config.rung_settings(config.changes(search.arm, values), config.search.scheduler.rungs[number - 1])
    name = f"{search.name}_trial_{trial}_rung_{number}"
    return search.run(name, values, changes, before.name if before else None)


def _rung_result(
    updates: int,
    changes: Mapping[str, Any],
    before: Sequence[TrialRow | None],
    rows: Sequence[TrialRow],
    best: Sequence[TrialRow],
    promoted: int,
    config: ExperimentConfig,
) -> RungResult:
    pairs = list(zip(rows, before, strict=True))
    made, calls = (
        sum(max(0.0, spent(row, cost) - (spent(old, cost) if old else 0.0)) for row, old in pairs)
        for cost in ("update", CALLS)
    )
    top = best[0].history[-1].get(config.objective) if best else None
    return RungResult(updates, changes, len(rows), promoted, int(made), calls, top)


def spent(row: TrialRow, metric: str) -> float:
    """A cost at the last evaluation of a run, with the costs of the runs that it continues."""
    return row.history[-1].get(metric, 0.0) if row.history else 0.0


def _trial_row(row: TrialRow, params: Mapping[str, Any], reached: bool) -> TrialRow:
    """Row of a trial: values of a lower rung are no result of a whole trial, as those of a trial stopped early."""
    status = row.status if reached or row.failed else "stopped early"
    return replace(row, params=params, status=status)
