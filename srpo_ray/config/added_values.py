"""Values that may be added to the grid of an arm, as far as the config of its runs accepts them."""

from collections.abc import Iterator, Mapping
from typing import Any

from srpo_ray.config.arm import Arm
from srpo_ray.config.experiment import ExperimentConfig
from srpo_ray.config.load import ConfigError, apply
from srpo_ray.config.pool_key import pool_key
from srpo_ray.config.run import RunConfig
from srpo_ray.config.widening import value_beyond


def refusal_of(config: ExperimentConfig, base: RunConfig, arm: Arm, value: float) -> str:
    """Find the reason why the runs of an arm cannot have an added value.

    Args:
        config: The experiment.
        base: Config that its runs start from.
        arm: Arm with a grid of one path.
        value: The value.

    Returns:
        The reason; empty if trials, and the seeds of the arm, of arms like it and of ablations, can have it.
    """
    ((path, given),) = arm.grid.items()
    name = f"{path}={value}"
    try:
        for changes in _seed_changes(config, arm, {path: value}):
            apply(base, changes, name)
        trial = apply(base, config.trial_settings(config.changes(arm, {path: value})), name)
    except ConfigError as error:
        return str(error)
    # Pools are started before the first trial, for the values of the file.
    if pool_key(trial) != pool_key(apply(base, config.trial_settings(config.changes(arm, {path: given[0]})))):
        return f"{name}: expected a key that leaves reward models and reward pool as they are, got another"
    return ""


def _seed_changes(config: ExperimentConfig, arm: Arm, values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Changes of all arms and ablations that take their values from the search of an arm."""
    for part in config.parts:
        own, ablated = (part, {}) if isinstance(part, Arm) else (config.reference, part.set)
        if config.origin(own) is arm:
            yield {**config.changes(own, values), **ablated}


def possible_values(config: ExperimentConfig, base: RunConfig, arm: Arm) -> list[float]:
    """Compute the values that the search of an arm may add to its grid, at one end or the other.

    Args:
        config: The experiment.
        base: Config that its runs start from.
        arm: Arm with a grid that widens.
    """
    (given,) = arm.grid.values()
    found: list[float] = []
    for upper in (False, True):
        added: list[float] = []
        while len(added) < arm.widen:
            value = value_beyond(given, added, upper=upper)
            if refusal_of(config, base, arm, value):
                break
            added.append(value)
        found += added
    return found
