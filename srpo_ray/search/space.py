"""Search space, searcher and scheduler of an arm in the terms of Ray Tune."""

import json
from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search import ConcurrencyLimiter, SearchAlgorithm
from ray.tune.search.basic_variant import BasicVariantGenerator

from srpo_ray.config import ExperimentConfig, RunConfig, apply
from srpo_ray.config.absolute_paths import with_absolute_paths
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
    found = dict(space)
    for path, dimension in space.items():
        if dimension.choice is not None:
            choices = [absolute_changes(base, {**changes, path: value})[path] for value in dimension.choice]
            found[path] = SearchDimension(choice=tuple(choices))
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
    """The config values that drawn parameters stand for."""
    return {path: json.loads(value) if isinstance(value, str) else value for path, value in params.items()}


def search_algorithm(config: ExperimentConfig) -> SearchAlgorithm | ConcurrencyLimiter:
    """Build the searcher that draws the trials of one arm.

    Raises:
        ValueError: If Optuna is asked for and not installed.
    """
    search = config.search
    if search.searcher == "random":
        return BasicVariantGenerator(max_concurrent=config.concurrency, random_state=search.seed)
    try:
        import optuna
    except ImportError as error:
        raise ValueError(
            "search.searcher: expected an installed searcher, got optuna, which is not; run"
            " `pip install 'srpo_ray[optuna]'` or set searcher to random"
        ) from error
    from ray.tune.search.optuna import OptunaSearch

    # Half of the trials are drawn at random before the model of the searcher counts.
    sampler = optuna.samplers.TPESampler(seed=search.seed, n_startup_trials=max(search.num_samples // 2, 1))
    optuna_search = OptunaSearch(metric=config.objective, mode=config.mode, sampler=sampler)
    return ConcurrencyLimiter(optuna_search, max_concurrent=config.concurrency)


def scheduler(config: SchedulerConfig, num_updates: int) -> TrialScheduler | None:
    """Build the scheduler that stops weak trials early; None lets all run to the end."""
    if config.type == "none" or num_updates <= config.grace_updates:
        return None
    # A trial is never stopped at its last update: it would be killed while it writes what it found.
    return AsyncHyperBandScheduler(
        time_attr="update",
        max_t=num_updates - 1,
        stop_last_trials=False,
        grace_period=config.grace_updates,
        reduction_factor=config.reduction_factor,
    )
