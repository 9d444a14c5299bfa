"""Loading of an experiment: its file, the run config that its runs start from, and checks of one against the other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from srpo_ray.config.arm import Arm
from srpo_ray.config.continued_runs import check_continued_runs
from srpo_ray.config.experiment import ExperimentConfig
from srpo_ray.config.load import ConfigError, apply, entries, find_config, load_run, load_values, validate
from srpo_ray.config.objective import VOTES, check_truth
from srpo_ray.config.run import RunConfig

_COMPARED = (
    *("prompts", "num_prompts", "samples_per_prompt", "seed", "num_steps", "guidance_scale", "test"),
    *("held_out", "preprocessing"),
)
"""Keys of section `evaluation` that runs of an experiment must share for their scores to compare."""


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> tuple[ExperimentConfig, RunConfig]:
    """Load an experiment file and the run config that its runs start from, and check the one against the other.

    Args:
        path: The experiment file, as for `find_config`; the files of its `base` are found from its folder.
        overrides: `a.b=value` for the base config; a path that starts with `experiment.` changes the experiment itself.

    Raises:
        ConfigError: If either cannot be used, or an arm, its search or an ablation has a key or value that the run
            config refuses.
    """
    path = find_config(path)
    own, others = [], []
    for argument in overrides:
        (own if argument.startswith(ExperimentConfig.prefix) else others).append(argument)
    values = load_values([path], [argument.removeprefix(ExperimentConfig.prefix) for argument in own])
    values = _with_arm_files(values, path.parent)
    config = validate(ExperimentConfig, values, str(path))
    bases = (config.base,) if isinstance(config.base, str) else config.base
    base = load_run([find_config(file, path.parent) for file in bases], others)
    for origin, changes in (*config.trained_changes(), *config.trial_changes()):
        _check_experiment_run(config, apply(base, changes, f"{path}: {origin}"), f"{path}: {origin}")
    _check_same_workers(config, base, path)
    _check_budget_is_spent(config, base, path)
    _check_fresh_seeds(config, base, path)
    _check_same_evaluation(config, base, path)
    try:
        check_continued_runs(config, lambda changes: apply(base, changes, str(path)))
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    return config, base


def _with_arm_files(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Values of an experiment, with the values of the files that arms name in `config` moved into their `set`."""
    arms = values.get("arms")
    if not isinstance(arms, list):
        return dict(values)
    return {**values, "arms": [_with_files(arm, folder) for arm in arms]}


def _with_files(arm: Any, folder: Path) -> Any:
    names = arm.get("config") if isinstance(arm, Mapping) else None
    names = [names] if isinstance(names, str) else names
    own = arm.get("set", {}) if names else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not isinstance(own, Mapping):
        return arm
    taken = entries(load_values([find_config(name, folder) for name in names]))
    # A file names its run, which the experiment does itself.
    taken.pop("name", None)
    return {**{key: value for key, value in arm.items() if key != "config"}, "set": {**taken, **own}}


def _check_experiment_run(config: ExperimentConfig, run: RunConfig, origin: str) -> None:
    try:
        for metric in {config.objective: config.mode, **config.objectives}:
            run.evaluation.check_score(metric)
        for metric in config.max_fall:
            run.evaluation.check_limit(metric)
        for metric in config.equal_gain:
            check_truth("equal_gain", metric)
    except ValueError as error:
        raise ConfigError(f"{origin}: {error}") from error
    if config.objective == VOTES and run.evaluation.choose == "best":
        raise ConfigError(
            f"{origin}: expected evaluation.choose last with objective votes, got best; people vote on the images of"
            " the last evaluation, which other weights would not have drawn: remove it"
        )


def _check_same_workers(config: ExperimentConfig, base: RunConfig, path: str | Path) -> None:
    """Check that all workers of an experiment reserve the same if runs divide the workers of the cluster."""
    every = (*config.trained_changes(), *config.trial_changes())
    runs = [(f"{path}: {origin}", apply(base, changes).training) for origin, changes in every]
    if not any(training.elastic for _, training in runs):
        return
    first, needed = runs[0][0], runs[0][1].worker_resources
    for origin, training in runs:
        if training.worker_resources != needed:
            raise ConfigError(
                f"{origin}: expected a worker to reserve {needed} as in {first}, got {training.worker_resources}; runs"
                " with a range of training.num_workers divide the workers of the cluster among themselves, so give"
                " each worker the same training.num_cpus, num_gpus and resources, or each run a fixed number"
            )


def _check_budget_is_spent(config: ExperimentConfig, base: RunConfig, path: str | Path) -> None:
    """Check that the experiment reserves GPUs if its budget counts them."""
    limits = config.budget.limits if config.budget else {}
    counted = [name for name in limits if name != "hours"]
    runs = [apply(base, changes) for _, changes in config.trained_changes()]
    if counted and not any(run.training.num_gpus or run.reward_gpus for run in runs):
        raise ConfigError(
            f"{path}: expected runs that reserve GPUs with budget.{counted[0]}, got CPU runs (training.num_gpus=0),"
            " which would never spend it; give budget.hours"
        )


def _check_fresh_seeds(config: ExperimentConfig, base: RunConfig, path: str | Path) -> None:
    for part in (*config.arms, *config.ablations):
        origin = config.origin(part if isinstance(part, Arm) else config.reference)
        if origin.searched and base.seed in config.seeds_of(part):
            raise ConfigError(
                f"{path}: expected seeds of {part.name!r} other than {base.seed}, the `seed` that trials are trained"
                f" with, got {list(config.seeds_of(part))}; a chosen trial's score is the best of several, so it would"
                " bias the mean: choose another"
            )


def _check_same_evaluation(config: ExperimentConfig, base: RunConfig, path: str | Path) -> None:
    """Check that arms and ablations are evaluated alike: otherwise their scores would not compare."""
    first, *others = ((origin, apply(base, changes)) for origin, changes in config.trained_changes())
    for origin, run in others:
        differing = [key for key in _COMPARED if getattr(run.evaluation, key) != getattr(first[1].evaluation, key)]
        # Unset, it follows `model.resolution`, in which arms may differ.
        if run.model_at(run.evaluation).size != first[1].model_at(first[1].evaluation).size:
            differing.append("resolution")
        if differing:
            raise ConfigError(
                f"{path}: {origin}: expected the evaluation of {first[0]}, got another"
                f" {', '.join(f'evaluation.{key}' for key in differing)}; scores of other prompts, noise, sizes or"
                " models do not compare: give these keys in the base config"
            )
