"""Runs of an experiment to plan: example trials of a search, and sizes of runs with a range of workers."""

from collections.abc import Mapping, Sequence
from itertools import product
from math import prod
from typing import Any, NamedTuple

from srpo_ray.config import ConfigError, ExperimentConfig, RunConfig, apply
from srpo_ray.config.added_values import possible_values
from srpo_ray.config.arm import Arm
from srpo_ray.config.conditions import example_trial, searched_values_of, with_conditional
from srpo_ray.config.search import SearchDimension
from srpo_ray.planning.hardware import Hardware
from srpo_ray.planning.plan import Plan, make_plan

MOST_EXAMPLES = 256
"""Most combinations of values that are planned; beyond them, each value is planned with the arm's own of all others."""


class PlannedTrial(NamedTuple):
    """Run of an experiment and its plan."""

    config: RunConfig
    plan: Plan
    values: dict[str, Any]
    """Values of the trial's keys that change the plan."""
    beyond: bool = False
    """True for a value beyond the grid, which its widening may add."""

    @property
    def figures(self) -> tuple[float, float, Plan]:
        """Figures by which the values of a key are compared."""
        return self.config.trainer_gpus, self.config.reward_gpus, self.plan


def at_size(run: RunConfig, workers: int) -> RunConfig:
    """Config of a run whose number of workers is fixed.

    A worker makes its forward passes with as many prompts as with any other number of workers.

    Args:
        run: The run; one with a fixed number stays as it is.
        workers: Number of workers, or beyond the run's range the nearest in it.
    """
    training = run.training
    if not training.elastic:
        return run
    workers = min(max(workers, training.min_workers), training.max_workers)
    # Not validated: the number need not divide the batch.
    fixed = training.model_copy(update={"num_workers": workers, "micro_batch_size": training.pass_size})
    return run.model_copy(update={"training": fixed})


def example_trials(
    config: ExperimentConfig, base: RunConfig, arm: Arm, hardware: Hardware, workers: int = 1
) -> list[PlannedTrial]:
    """Plan example trials of one search.

    Values of a space are those of a list, or the ends of a range and one between them. A key whose values all lead to
    the same plan keeps the arm's own in the examples. The others are combined; a combination has no value whose
    condition does not hold, and a value for each condition that does. Those of a grid that widens are followed by the
    values that may be added, as far as the config accepts them.

    Args:
        config: The experiment.
        base: Config that its runs start from.
        arm: Arm with a space or a grid.
        hardware: Hardware to plan for.
        workers: Workers of each trial, as for `at_size`.

    Returns:
        The trials, at least one.
    """
    values: dict[str, Sequence[Any]] = {path: dimension.examples for path, dimension in arm.space.items()}
    values |= arm.grid
    added = {path: possible_values(config, base, arm) for path in (arm.grid if arm.widen else ())}
    values |= {path: [*arm.grid[path], *each] for path, each in added.items()}

    def planned(chosen: Mapping[str, Any]) -> PlannedTrial:
        run = at_size(apply(base, config.trial_settings(config.changes(arm, chosen))), workers)
        beyond = any(chosen.get(path) in each for path, each in added.items())
        return PlannedTrial(run, make_plan(run, hardware), {**chosen}, beyond)

    def with_condition(path: str, value: Any) -> dict[str, Any]:
        return example_trial(arm.space, path, value) if path in arm.space else {path: value}

    alone = {path: [planned(with_condition(path, value)) for value in examples] for path, examples in values.items()}
    differing = [path for path, trials in alone.items() if len({trial.figures for trial in trials}) > 1]
    relevant = _with_conditions(arm.space, differing)
    if not relevant:
        return [next(iter(alone.values()))[0]._replace(values={})]
    if prod(len(values[path]) for path in relevant) > MOST_EXAMPLES:
        return [trial for path in relevant for trial in alone[path]]
    found = []
    for combination in product(*(values[path] for path in relevant)):
        chosen = dict(zip(relevant, combination, strict=True))
        if arm.space:
            # Equal trials may remain: their number is the share of the draws in which a condition does not hold.
            chosen = with_conditional(arm.space, searched_values_of(arm.space, chosen))
        try:
            found.append(planned(chosen))
        except ConfigError:
            # Two values exclude each other. A trial that draws both fails at its start.
            continue
    return found or [trial for path in relevant for trial in alone[path]]


def _with_conditions(space: Mapping[str, SearchDimension], paths: Sequence[str]) -> list[str]:
    """Paths, and those that their conditions name, in the order of the space."""
    if not space:
        return list(paths)
    found, waiting = set[str](), list(paths)
    while waiting:
        path = waiting.pop()
        found.add(path)
        waiting += [other for other in space[path].when if other not in found]
    return [path for path in space if path in found]
