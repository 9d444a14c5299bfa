"""Training of all grids of an experiment, in rounds: after the first, values beyond the ends of grids that widen."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import TypeVar

from srpo_ray.config import ExperimentConfig, RunConfig
from srpo_ray.config.added_values import refusal_of
from srpo_ray.config.arm import Arm
from srpo_ray.config.widening import value_beyond
from srpo_ray.evaluation.results import TrialRow
from srpo_ray.live.state import raise_total
from srpo_ray.search.arm_trials import ArmTrials, grid_runs, train_runs
from srpo_ray.search.phase import PlannedRun
from srpo_ray.search.selection import choose_best
from srpo_ray.search.trial import Experiment

T = TypeVar("T")

GRIDS = "grids"
"""Name of the phase of all grids in the experiment's folder; those of added values have a number behind it."""


@dataclass
class _Grid:
    """Grid of one arm while it is trained."""

    arm: Arm
    new: list[PlannedRun]
    """Runs of the next round."""
    runs: list[PlannedRun] = field(default_factory=list[PlannedRun])
    """Runs of the rounds so far."""
    added: list[float] = field(default_factory=list[float])
    """Values that were added."""
    refusal: str = ""
    """Reason why the next value cannot be trained; empty without one."""


def train_grids(experiment: Experiment, config: ExperimentConfig) -> dict[str, ArmTrials]:
    """Train the grids of all arms, and the values that widen them.

    All grids are trained together, as none of their trials waits for another. Then the next value of every grid whose
    best one is at its end is trained, and so on. A resumed experiment plans the same runs, because the next value
    depends on the rows of the earlier ones only.

    Args:
        experiment: Facts that all runs share.
        config: The experiment.

    Returns:
        Name of each arm with a grid -> its trials.
    """
    seed = experiment.base.seed
    grids = [_Grid(arm, grid_runs(config, arm, seed)) for arm in config.arms if arm.grid]
    rows, number = dict[str, TrialRow](), 0
    while any(grid.new for grid in grids):
        rows |= _train_round(experiment, config, number, [grid.new for grid in grids])
        number += 1
        for grid in grids:
            grid.runs += grid.new
            grid.new = _widen(grid, config, experiment.base, rows)
    return {
        grid.arm.name: ArmTrials(_rows_of(grid.runs, rows), added=grid.added, refusal=grid.refusal) for grid in grids
    }


def _train_round(
    experiment: Experiment, config: ExperimentConfig, number: int, groups: Sequence[Sequence[PlannedRun]]
) -> dict[str, TrialRow]:
    """Train the runs of a round: 0 for the grids of the file, then one value of each grid that widens."""
    phase, title = GRIDS, "values of each arm's grid"
    if number:
        phase, title = f"{GRIDS}_widened_{number}", f"values beyond the grids, round {number}"
        raise_total(Path(experiment.folder), sum(map(len, groups)))
    # The budget may end the grids before all are trained: then each arm has tried as many combinations.
    runs = in_turns(groups) if experiment.budget else [*chain(*groups)]
    return {row.name: row for row in train_runs(experiment, config, phase, title, runs)}


def _widen(grid: _Grid, config: ExperimentConfig, base: RunConfig, rows: Mapping[str, TrialRow]) -> list[PlannedRun]:
    """Add a value to a grid, and plan its run; none if the grid does not widen any further."""
    own = _rows_of(grid.runs, rows)
    if len(own) < len(grid.runs) or any(row.stopped_early for row in own):
        # The budget had no room for some of the runs, so the best of all is not known.
        return []
    value = next_value(config, grid.arm, own, grid.added)
    grid.refusal = "" if value is None else refusal_of(config, base, grid.arm, value)
    if value is None or grid.refusal or len(grid.added) == grid.arm.widen:
        return []
    grid.added.append(value)
    return grid_runs(config, grid.arm, base.seed, grid.added)[len(grid.runs) :]


def next_value(config: ExperimentConfig, arm: Arm, rows: Sequence[TrialRow], added: Sequence[float]) -> float | None:
    """Compute the value that the grid of an arm is widened by.

    Args:
        config: Objective and limits that choose the best trial.
        arm: Arm with a grid.
        rows: Its trials so far. One that failed is not chosen, so the value before it is inside.
        added: Values that were added before.

    Returns:
        The value; None if the arm does not widen, no trial can be chosen, or the best one is inside.
    """
    if not arm.widen or not any(row.ended and row.value(config.objective) is not None for row in rows):
        return None
    ((path, given),) = arm.grid.items()
    best, tried = choose_best(rows, config, arm.name)[0].params[path], [*given, *added]
    if best not in (min(tried), max(tried)):
        return None
    return value_beyond(given, added, upper=best == max(tried))


def _rows_of(runs: Sequence[PlannedRun], rows: Mapping[str, TrialRow]) -> list[TrialRow]:
    return [rows[run.name] for run in runs if run.name in rows]


def in_turns(groups: Iterable[Sequence[T]]) -> list[T]:
    """The first entry of every group before the second of any."""
    return [entry for entries in zip_longest(*groups) for entry in entries if entry is not None]
