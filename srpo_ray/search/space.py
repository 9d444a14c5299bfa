"""Search space and scheduler of an arm in the terms of Ray Tune."""

import json
from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from srpo_ray.config import RunConfig, apply
from srpo_ray.config.absolute_paths import with_absolute_paths
from srpo_ray.config.conditions import allowed_values, example_trial
from srpo_ray.config.load import get_path
from srpo_ray.config.search import SchedulerConfig, SearchDimension


def param_space(space: Mapping[str, SearchDimension]) -> dict[str, Any]:
    """Ray Tune's domains by dotted config path. Choices travel as JSON texts, as searchers want plain values."""
    return {path: _domain(dimension) for path, dimension in space.items()}


def absolute_changes(base: RunConfig, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Make local paths in the changes to a config absolute, as trials work in folders of their own.

    Args:
        base: Config that is changed.
        changes: Dotted config path -> value.
    """
    config = apply(base, changes)
    given, absolute = (each.model_dump(mode="json") for each in (config, with_absolute_paths(config)))
    return {
        path: value if get_path(given, path) == get_path(absolute, path) else get_path(absolute, path)
        for path, value in changes.items()
    }


def absolute_space(
    space: Mapping[str, SearchDimension], base: RunConfig, changes: Mapping[str, Any]
) -> dict[str, SearchDimension]:
    """Make local paths among the choices of a search space absolute.

    Args:
        space: Search space of an arm.
        base: Config that its trials start from.
        changes: Changes of the arm to that config.
    """

    def absolute(path: str, value: Any) -> Any:
        return absolute_changes(base, {**changes, **example_trial(space, path, value)})[path]

    found = {}
    for path, dimension in space.items():
        allowed = allowed_values(space, path)
        when = {other: [absolute(other, value) for value in values] for other, values in allowed.items()}
        choices = None if dimension.choice is None else tuple(absolute(path, value) for value in dimension.choice)
        found[path] = dimension.model_copy(update={"choice": choices, "when": when})
    return found


def _domain(dimension: SearchDimension) -> Any:
    if dimension.choice is not None:
        return tune.choice([json.dumps(value) for value in dimension.choice])
    if dimension.uniform is not None:
        return tune.uniform(*dimension.uniform)
    if dimension.loguniform is not None:
        return tune.loguniform(*dimension.loguniform)
    assert dimension.randint is not None
    return tune.randint(*dimension.randint)


def decode(params: Mapping[str, Any]) -> dict[str, Any]:
    """The config values that drawn parameters stand for; choices are JSON texts."""
    return {path: json.loads(value) if isinstance(value, str) else value for path, value in params.items()}


def scheduler(config: SchedulerConfig, num_updates: int) -> TrialScheduler | None:
    """Build the scheduler that stops weak trials early; None lets all run to the end."""
    if config.type != "asha" or num_updates <= config.grace_updates:
        return None
    # A trial is never stopped at its last update: it would be killed while it writes what it found.
    return AsyncHyperBandScheduler(
        time_attr="update",
        max_t=num_updates - 1,
        stop_last_trials=False,
        grace_period=config.grace_updates,
        reduction_factor=config.reduction_factor,
    )
