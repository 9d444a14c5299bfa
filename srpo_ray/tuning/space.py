"""The search space of a sweep file as Ray Tune knows it."""

import json
from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search import ConcurrencyLimiter, SearchAlgorithm
from ray.tune.search.basic_variant import BasicVariantGenerator

from srpo_ray.config.sweep import SearchDimension, SweepConfig


def param_space(space: Mapping[str, SearchDimension]) -> dict[str, Any]:
    """Ray Tune's domains by dotted config path. Choices travel as JSON texts, as searchers want plain values."""
    return {path: _domain(dimension) for path, dimension in space.items()}


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


def search_algorithm(sweep: SweepConfig) -> SearchAlgorithm | ConcurrencyLimiter:
    """What draws the trials.

    Raises:
        ValueError: If Optuna is asked for and not installed.
    """
    if sweep.searcher == "random":
        return BasicVariantGenerator(max_concurrent=sweep.max_concurrent_trials, random_state=sweep.seed)
    try:
        import optuna
    except ImportError as error:
        raise ValueError(
            "sweep.searcher: expected an installed searcher, got optuna, which is not; run"
            " `pip install 'srpo_ray[optuna]'` or set searcher to random"
        ) from error
    from ray.tune.search.optuna import OptunaSearch

    # Half of the trials are drawn at random before the model of the searcher counts.
    sampler = optuna.samplers.TPESampler(seed=sweep.seed, n_startup_trials=max(sweep.num_samples // 2, 1))
    search = OptunaSearch(metric=sweep.objective, mode=sweep.mode, sampler=sampler)
    return ConcurrencyLimiter(search, max_concurrent=sweep.max_concurrent_trials)


def scheduler(sweep: SweepConfig, num_updates: int) -> TrialScheduler | None:
    """What stops weak trials early; None lets all run to the end."""
    if sweep.scheduler.type == "none" or num_updates <= sweep.scheduler.grace_updates:
        return None
    # A trial is never stopped at its last update: it would be killed while it writes what it found.
    return AsyncHyperBandScheduler(
        time_attr="update",
        max_t=num_updates - 1,
        stop_last_trials=False,
        grace_period=sweep.scheduler.grace_updates,
        reduction_factor=sweep.scheduler.reduction_factor,
    )
