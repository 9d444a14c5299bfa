"""Checks of an experiment's runs that continue from each other: rungs, rounds of a population, schedules."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from srpo_ray.config.arm import Arm
from srpo_ray.config.conditions import example_trial
from srpo_ray.config.continuation import check_continues
from srpo_ray.config.experiment import ExperimentConfig
from srpo_ray.config.run import RunConfig
from srpo_ray.config.scheduler import UPDATES

Make = Callable[[Mapping[str, Any]], RunConfig]
"""Function from changes to a run config over the base config."""


def check_continued_runs(config: ExperimentConfig, make: Make) -> None:
    """Check that every part of a trial, and of an arm with a schedule, can continue from the part before it.

    Args:
        config: The experiment.
        make: Function that applies changes to the base config.

    Raises:
        ValueError: If one cannot; the message names the arm.
    """
    if make({}).start_from is not None:
        raise ValueError(
            "expected no start_from in the base config of an experiment, got one; its runs start from the base model,"
            " as a checkpoint belongs to one seed: remove it"
        )
    for arm in config.arms:
        try:
            if arm.space and config.search.scheduler.continues:
                _check_trials(config, arm, make)
            if config.origin(arm).schedule:
                _check_schedule(config, arm, make)
        except ValueError as error:
            raise ValueError(f"arm {arm.name!r}: {error}") from error


def schedule_changes(
    config: ExperimentConfig, arm: Arm, values: Sequence[tuple[int, Mapping[str, Any]]] | None = None
) -> list[dict[str, Any]]:
    """Changes of each round of a scheduled arm to the base config.

    Args:
        config: The experiment.
        arm: The arm.
        values: Updates at the end of each round and its values, as a search found them; None takes the schedule of the
            arm, or of the arm that it is like.
    """
    rounds = [(part.updates, part.set) for part in config.origin(arm).schedule] if values is None else values
    last = len(rounds) - 1
    found = [config.changes(arm, values) for _, values in rounds]
    # The last round ends with the run: its end is the arm's own number of updates.
    return [
        {**changes, **({UPDATES: updates} if number < last else {})}
        for number, (changes, (updates, _)) in enumerate(zip(found, rounds, strict=True))
    ]


def num_later_runs(config: ExperimentConfig, make: Make) -> int:
    """Count the runs of an experiment that continue from others: later rungs, later rounds, later parts of a schedule.

    Args:
        config: The experiment.
        make: Applies changes to the base config.
    """
    scheduler, later = config.search.scheduler, 0
    for arm in config.arms:
        rounds = max(1, len(arm.schedule))
        if arm.space and scheduler.rungs:
            going = config.search.num_samples
            for rung in scheduler.rungs[:-1]:
                going = rung.num_promoted(going)
                later += going
        elif arm.space and scheduler.perturb_interval:
            num_updates = make(config.trial_settings(config.changes(arm))).training.num_updates
            rounds = math.ceil(num_updates / scheduler.perturb_interval)
            later += (rounds - 1) * config.search.num_samples
        followers = [part for part in config.arms if config.origin(part) is arm]
        ablations = config.ablations if config.origin(config.reference) is arm else ()
        later += (rounds - 1) * sum(len(config.seeds_of(part)) for part in (*followers, *ablations))
    return later


def part_settings(config: ExperimentConfig, arm_changes: Mapping[str, Any], num_updates: int) -> list[dict[str, Any]]:
    """Changes of each part of a trial to the base config: of each rung, or of each round of a population.

    Args:
        config: The experiment.
        arm_changes: Changes of the arm, with the values of the trial.
        num_updates: Updates of a whole trial.
    """
    scheduler = config.search.scheduler
    if scheduler.rungs:
        return [config.rung_settings(arm_changes, rung) for rung in scheduler.rungs]
    return [{**config.trial_settings(arm_changes), UPDATES: end} for end in scheduler.ends(num_updates)]


def _check_trials(config: ExperimentConfig, arm: Arm, make: Make) -> None:
    scheduler, changes = config.search.scheduler, config.changes(arm)
    if UPDATES in arm.space:
        raise ValueError(
            f"expected no {UPDATES} in `space` with scheduler.type: {scheduler.type}, which sets the updates of each"
            " part of a trial, got one; remove it"
        )
    num_updates = make(config.trial_settings(changes)).training.num_updates
    if scheduler.rungs and scheduler.rungs[-1].updates != num_updates:
        raise ValueError(
            f"expected the last rung to end at {UPDATES}={num_updates}, got {scheduler.rungs[-1].updates}; change"
            " `updates` of the rung, or give the trials that number of updates in `search.set`"
        )
    if scheduler.perturb_interval is not None and scheduler.perturb_interval >= num_updates:
        raise ValueError(
            f"expected perturb_interval below {UPDATES}={num_updates}, got {scheduler.perturb_interval}; no trial would"
            " ever copy another: lower it"
        )
    plain = [make(settings) for settings in part_settings(config, changes, num_updates)]
    for values in _examples(arm):
        parts = [make(settings) for settings in part_settings(config, config.changes(arm, values), num_updates)]
        _check_chain(parts)
        if scheduler.type == "pbt":
            # A trial copies the weights of trials with other values.
            _check_chain([plain[0], *parts[1:]])


def _check_schedule(config: ExperimentConfig, arm: Arm, make: Make) -> None:
    parts = [make(changes) for changes in schedule_changes(config, arm)]
    num_updates = parts[-1].training.num_updates
    end = arm.schedule[-1].updates if arm.schedule else num_updates
    if end != num_updates:
        raise ValueError(
            f"expected the schedule to end at {UPDATES}={num_updates}, got {end}; change `updates` of its last"
            " round, or set that number of updates in the arm"
        )
    _check_chain(parts)


def _examples(arm: Arm) -> Iterator[dict[str, Any]]:
    """Values of example trials: one searched value at a time, with those that its condition needs."""
    yield {}
    for path, dimension in arm.space.items():
        yield from (example_trial(arm.space, path, value) for value in dimension.examples)


def _check_chain(parts: Sequence[RunConfig]) -> None:
    for before, after in pairwise(parts):
        check_continues(before, after, before.training.num_updates)
    decaying = next((part for part in parts if part.training.lr_schedule.type != "constant"), None)
    if decaying is not None and len(parts) > 1:
        raise ValueError(
            "expected training.lr_schedule.type=constant for runs that continue from each other, got"
            f" {decaying.training.lr_schedule.type}; each would decay to its own last update. Give the learning rate of"
            " each round in a `schedule` instead"
        )
