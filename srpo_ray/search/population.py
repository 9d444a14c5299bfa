"""Population based training (arXiv 1711.09846), synchronous: rounds of runs that continue from checkpoints."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from srpo_ray.config.continued_runs import part_settings
from srpo_ray.config.scheduler import SchedulerConfig
from srpo_ray.config.search import SearchDimension
from srpo_ray.evaluation.results import TrialRow
from srpo_ray.evaluation.search_parts import Member, RoundResult
from srpo_ray.search.promotion import SearchInParts, order

Draw = Callable[[str, Random], Any]
"""Function that draws the value of a config path from its distribution."""


@dataclass(frozen=True)
class Step:
    """Next round of one trial."""

    source: int
    """Index of the trial whose checkpoint it continues."""
    values: Mapping[str, Any]


def next_round(
    values: Sequence[Mapping[str, Any]],
    ranked: Sequence[int],
    scheduler: SchedulerConfig,
    space: Mapping[str, SearchDimension],
    draw: Draw,
    random: Random,
) -> list[Step]:
    """Decide which trial continues from which checkpoint, and with which values (truncation selection).

    The worst share of the trials copies trials of the best share, each drawn at random, and perturbs their values.
    Trials that cannot continue copy too. All others continue with their own values.

    Args:
        values: Values of each trial in the round before.
        ranked: Indices of the trials that can continue, the best first; at least one.
        scheduler: Shares and factors.
        space: Distributions of the values.
        draw: Function that draws a value anew.
        random: Source of the random draws; equal states give equal steps.
    """
    count = max(1, math.floor(len(values) * scheduler.exploit_share + 1e-9))
    lost = len(values) - len(ranked)
    # At least one trial stays to be copied.
    num_copying = min(max(count - lost, 0), len(ranked) - 1)
    staying = ranked[: len(ranked) - num_copying]
    best = staying[:count]
    steps = []
    for trial, own in enumerate(values):
        if trial in staying:
            steps.append(Step(trial, own))
        else:
            source = random.choice(best)
            steps.append(Step(source, explore(values[source], scheduler, space, draw, random)))
    return steps


def explore(
    values: Mapping[str, Any],
    scheduler: SchedulerConfig,
    space: Mapping[str, SearchDimension],
    draw: Draw,
    random: Random,
) -> dict[str, Any]:
    """Perturb copied values: draw each anew with `resample_probability`, and otherwise move it a little.

    Args:
        values: Values of the copied trial.
        scheduler: Probability and factors.
        space: Distributions of the values.
        draw: Function that draws a value anew.
        random: Source of the random draws.
    """
    return {
        path: draw(path, random)
        if random.random() < scheduler.resample_probability
        else perturb(value, space[path], scheduler.perturb_factors, lambda path=path: draw(path, random), random)
        for path, value in values.items()
    }


def perturb(
    value: Any, dimension: SearchDimension, factors: Sequence[float], redraw: Callable[[], Any], random: Random
) -> Any:
    """Move a value a little within its distribution.

    A number is multiplied by one of the factors and kept in the range; a whole number moves by at least 1. A number
    among choices moves to a neighbouring choice. Other choices have no neighbours and are drawn again.

    Args:
        value: The value.
        dimension: Its distribution.
        factors: Factors above 0.
        redraw: Function that draws the value anew.
        random: Source of the random draws.
    """
    if dimension.choice is not None:
        return _neighbour(value, dimension.choice, random) if _are_numbers(dimension.choice) else redraw()
    factor = random.choice(list(factors))
    if dimension.randint is not None:
        low, high = dimension.randint
        moved = round(value * factor)
        moved += (moved == value) * (factor > 1) - (moved == value) * (factor < 1)
        return min(max(moved, low), high - 1)
    bounds = dimension.uniform or dimension.loguniform
    if bounds is None:
        return redraw()
    return min(max(value * factor, bounds[0]), bounds[1])


def _are_numbers(choices: Sequence[Any]) -> bool:
    return all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in choices)


def _neighbour(value: float, choices: Sequence[float], random: Random) -> float:
    ordered = sorted(set(choices))
    place = ordered.index(value) + random.choice((-1, 1))
    return ordered[min(max(place, 0), len(ordered) - 1)]


def search_by_population(
    search: SearchInParts, drawn: Sequence[Mapping[str, Any]], num_updates: int, draw: Draw
) -> tuple[list[TrialRow], list[RoundResult]]:
    """Train a population round by round; between rounds the worst trials copy good ones.

    Args:
        search: The search.
        drawn: Values of each trial in the first round.
        num_updates: Updates of a whole trial.
        draw: Function that draws a value anew.

    Returns:
        One row per trial of the last round that was trained, and the rounds. A round that the budget does not cover is
        not trained.

    Raises:
        ValueError: If no trial of a round can be continued.
    """
    config, scheduler = search.config, search.config.search.scheduler
    steps = [Step(trial, values) for trial, values in enumerate(drawn)]
    rounds, rows, trained = list[RoundResult](), list[TrialRow](), steps
    ends = scheduler.ends(num_updates)
    for number, end in enumerate(ends, 1):
        sources = [rows[step.source].name if rows else None for step in steps]
        found = _train_round(search, number, end, steps, sources, num_updates)
        if not found:
            break
        # The first round has the trials that the budget has room for.
        steps = [steps[index] for index in found]
        sources = [sources[index] for index in found]
        trained, rows = steps, [*found.values()]
        rounds.append(_round_result(end, steps, sources, rows, config.objective))
        ranked = order(rows, config)
        if not ranked and not any(row.status == "stopped early" for row in rows):
            raise ValueError(_none_left(rows, len(rounds), config.objective))
        if number == len(ends) or not ranked:
            break
        random = Random(f"{config.search.seed} {search.arm.name} round {number}")
        steps = next_round([step.values for step in steps], ranked, scheduler, search.arm.space, draw, random)
    if not rounds:
        return [], []
    whole = [config.trial_settings(config.changes(search.arm, step.values)) for step in trained]
    return [replace(row, params=params) for row, params in zip(rows, whole, strict=True)], rounds


def _train_round(
    search: SearchInParts,
    number: int,
    end: int,
    steps: Sequence[Step],
    sources: Sequence[str | None],
    num_updates: int,
) -> dict[int, TrialRow]:
    """Train one round of a population.

    Returns:
        Index of a trial -> its row. Without those of the first round that the budget has no room for; empty if it has
        no room for a later round, or has stopped trials of it.
    """
    config = search.config
    changes = [part_settings(config, config.changes(search.arm, step.values), num_updates) for step in steps]
    names = [f"{search.name}_trial_{trial}_round_{number}" for trial in range(len(steps))]
    runs = [
        search.run(name, step.values, parts[number - 1], source)
        for name, step, parts, source in zip(names, steps, changes, sources, strict=True)
    ]
    if number > 1 and len(search.admit(runs, True)) < len(runs):
        return {}
    title = f"search for {search.arm.name}, round {number} to update {end}"
    found = {row.name: row for row in search.train(f"search_{search.name}_round_{number}", title, runs)}
    if number > 1 and any(row.status == "stopped early" for row in found.values()):
        return {}
    return {index: found[name] for index, name in enumerate(names) if name in found}


def _round_result(
    end: int, steps: Sequence[Step], sources: Sequence[str | None], rows: Sequence[TrialRow], objective: str
) -> RoundResult:
    members = [
        Member(
            row.name,
            dict(step.values),
            source,
            row.history[-1].get(objective) if row.history else None,
            source is not None and step.source != trial,
        )
        for trial, (row, step, source) in enumerate(zip(rows, steps, sources, strict=True))
    ]
    return RoundResult(end, members)


def _none_left(rows: Sequence[TrialRow], number: int, objective: str) -> str:
    reasons = "; ".join(sorted({row.status for row in rows}))
    return (
        f"expected a trial with the metric {objective!r} that can be continued after round {number}, got none"
        f" ({reasons}); see the trials' folders for the causes"
    )
