"""Proposals of a trial's values by Optuna's TPE, from a search space and what earlier trials gave. No Ray."""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from srpo_ray.config.conditions import allowed_values, conditions_first
from srpo_ray.config.search import SearchDimension

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class Observation:
    """One trial as the searcher sees it."""

    values: Mapping[str, Any]
    """Dotted config path -> value, for the dimensions that were searched in this trial."""
    state: Literal["running", "finished", "stopped", "failed"]
    """`stopped`: stopped early, so that its objectives are those of a shorter training."""
    objectives: Sequence[float] = ()
    """Finite values of the objectives; empty unless the trial finished or was stopped."""
    excess: Mapping[str, float] = field(default_factory=dict)
    """Metric -> amount by which its fall exceeds the limit; above 0 breaks it."""
    update: int = 0
    """Updates of the evaluation that the objectives are from."""


def propose(
    space: Mapping[str, SearchDimension],
    observations: Sequence[Observation],
    modes: Sequence[Literal["max", "min"]],
    *,
    startup_trials: int,
    seed: int,
    number: int,
) -> dict[str, Any]:
    """Draw the values of one trial.

    The draw depends on the arguments alone, so a resumed search that remembers its observations draws the same values.
    Numbers of a trial are drawn jointly (multivariate TPE; grouped by what trials have in common if the space has
    conditions). Running trials count as bad ones, so that concurrent trials differ (constant liar). Several objectives
    are searched with multi-objective TPE (doi 10.1145/3377930.3389817).

    Args:
        space: Dotted config path -> dimension.
        observations: Earlier trials, in order. Failed ones do not count; those that were stopped early count below all
            that finished, and not at all with several objectives, where a short training may look best.
        modes: Direction of each objective.
        startup_trials: Number of observed trials below which values are drawn at random.
        seed: Seed of the search.
        number: Number of the trial; trials with other numbers have other draws.

    Returns:
        Dotted config path -> value, without the dimensions whose condition does not hold.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = _sampler(space, len(modes) > 1, startup_trials, seed, number)
    study = optuna.create_study(
        sampler=sampler, directions=["maximize" if mode == "max" else "minimize" for mode in modes]
    )
    for trial in (_frozen(space, each, len(modes) > 1) for each in observations):
        if trial is not None:
            study.add_trial(trial)
    trial, drawn = study.ask(), dict[str, Any]()
    for path in conditions_first(space):
        allowed = allowed_values(space, path)
        if all(other in drawn and drawn[other] in values for other, values in allowed.items()):
            drawn[path] = _draw(trial, path, space[path])
    return {path: drawn[path] for path in space if path in drawn}


def _sampler(
    space: Mapping[str, SearchDimension], several: bool, startup_trials: int, seed: int, number: int
) -> "BaseSampler":
    import optuna

    conditional = any(dimension.when for dimension in space.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            n_startup_trials=startup_trials,
            # A new generator for every trial: the state of one that is shared would have to survive a crash.
            seed=int(np.random.SeedSequence([seed % 2**32, number]).generate_state(1)[0]),
            # Optuna recommends independent draws for several objectives.
            multivariate=conditional or not several,
            group=conditional,
            constant_liar=True,
        )


def _frozen(space: Mapping[str, SearchDimension], trial: Observation, several: bool) -> "FrozenTrial | None":
    from optuna.trial import TrialState, create_trial

    if trial.state == "failed" or (trial.state == "stopped" and several):
        return None
    states = {"running": TrialState.RUNNING, "finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
    choices = {path for path in trial.values if space[path].choice is not None}
    return create_trial(
        state=states[trial.state],
        values=list(trial.objectives) if trial.state == "finished" else None,
        params={path: json.dumps(value) if path in choices else value for path, value in trial.values.items()},
        distributions={path: _distribution(space[path]) for path in trial.values},
        intermediate_values={trial.update: trial.objectives[0]} if trial.state == "stopped" else None,
        constraints=None if trial.state == "running" else dict(trial.excess),
    )


def _distribution(dimension: SearchDimension) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.choice is not None:
        return CategoricalDistribution([json.dumps(value) for value in dimension.choice])
    if dimension.randint is not None:
        return IntDistribution(dimension.randint[0], dimension.randint[1] - 1)
    bounds = dimension.uniform or dimension.loguniform
    assert bounds is not None
    return FloatDistribution(*bounds, log=dimension.loguniform is not None)


def _draw(trial: "Trial", path: str, dimension: SearchDimension) -> Any:
    if dimension.choice is not None:
        return json.loads(trial.suggest_categorical(path, [json.dumps(value) for value in dimension.choice]))
    if dimension.randint is not None:
        return trial.suggest_int(path, dimension.randint[0], dimension.randint[1] - 1)
    bounds = dimension.uniform or dimension.loguniform
    assert bounds is not None
    return trial.suggest_float(path, *bounds, log=dimension.loguniform is not None)


def in_space(dimension: SearchDimension, value: Any) -> bool:
    """Test that a value can be drawn from a dimension."""
    if dimension.choice is not None:
        return value in dimension.choice
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return False
    if dimension.randint is not None:
        return value == int(value) and dimension.randint[0] <= value < dimension.randint[1]
    bounds = dimension.uniform or dimension.loguniform
    assert bounds is not None
    return bounds[0] <= value <= bounds[1]
