"""Planning of an experiment's runs: searches with early stopping, then arms and ablations with their seeds."""

import json
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from srpo_ray.config import ExperimentConfig, RunConfig, apply
from srpo_ray.config.experiment import Arm
from srpo_ray.config.pool_key import pool_key
from srpo_ray.evaluation.comparison import GRADIENT_CALL
from srpo_ray.planning.early_stopping import ASSUMPTION, TrialEnd, trial_ends
from srpo_ray.planning.experiment import ExperimentPlan, Means, RunGroup
from srpo_ray.planning.hardware import Hardware
from srpo_ray.planning.plan import make_plan
from srpo_ray.planning.prices import Prices
from srpo_ray.planning.schedule import micro_batches, schedule
from srpo_ray.planning.trials import PlannedTrial, example_trials

HOUR = 3600
Examples = Mapping[str, list[PlannedTrial]]
"""Example trials of each searched arm, by the arm's name."""


def make_experiment_plan(
    config: ExperimentConfig,
    base: RunConfig,
    hardware: Hardware,
    prices: Prices | None = None,
    gpus: float | None = None,
) -> ExperimentPlan:
    """Plan an experiment from its config. No weights are loaded and no process is started.

    Args:
        config: The experiment.
        base: Config that its runs start from.
        hardware: Hardware to plan for.
        prices: Prices of a GPU-hour; None plans no money.
        gpus: GPUs of the cluster, without those of nodes that only reward replicas use; None takes those that
            `max_concurrent_trials` runs need.

    Raises:
        ValueError: If a run cannot be planned, or the cluster has no room for one run.
    """
    searched = {arm.name: example_trials(config, base, arm, hardware) for arm in config.arms if arm.searched}
    planned = [*_searches(config, searched), *_final_runs(config, base, hardware, searched)]
    every = [trial for _, trials in planned for trial in trials]
    pools = {pool_key(trial.config): trial.config for trial in every}.values()
    apart = sum(run.reward_gpus for run in pools if _have_own_nodes(config, run))
    beside = sum(run.reward_gpus for run in pools) - apart
    needed = max(trial.config.trainer_gpus for trial in every)
    concurrency = concurrent_runs(config, needed, beside, gpus)
    return ExperimentPlan(
        name=config.name,
        groups=tuple(group for group, _ in planned),
        reward_gpus=beside + apart,
        reward_gpus_apart=apart,
        concurrency=concurrency,
        gpus=concurrency * needed + beside if gpus is None else gpus,
        prices=prices,
        hardware=hardware,
        limits={**config.budget.limits} if config.budget else {},
        notes=tuple(dict.fromkeys(_notes(config, every, gpus))),
    )


def check_budget(plan: ExperimentPlan) -> None:
    """Check that the budget of an experiment is enough for its cheapest run, if that can be timed.

    Raises:
        ValueError: If it is not.
    """
    cost = plan.least_cost
    for name, needed in (cost.amounts(plan.prices) if cost else {}).items():
        limit = plan.limits.get(name)
        if limit is not None and limit < needed:
            raise ValueError(
                f"budget.{name}: expected at least {needed:.3g} for the cheapest run of {plan.name} by its plan"
                f" ({plan.hardware.assumption}), got {limit:g}; raise it, or lower training.num_updates"
            )


def concurrent_runs(config: ExperimentConfig, needed: float, reward_gpus: float, gpus: float | None) -> int:
    """Count the runs at the same time.

    Args:
        config: The experiment.
        needed: GPUs that the trainers of the largest run reserve.
        reward_gpus: GPUs that reward replicas reserve on the nodes of the trainers.
        gpus: GPUs of these nodes; None does not limit the runs, and `auto` is then one.

    Raises:
        ValueError: If the cluster has no room for one run.
    """
    most = config.max_concurrent_trials
    if gpus is None or not needed:
        return 1 if most == "auto" else most
    # The small number allows for fractions such as 0.1.
    room = int((gpus - reward_gpus) / needed + 1e-9)
    if room < 1:
        raise ValueError(
            f"expected at least {needed + reward_gpus:g} GPUs for one run of {config.name} ({needed:g} for its"
            f" trainers, {reward_gpus:g} for reward replicas), got {gpus:g}; give more with --gpus or --nodes"
        )
    return room if most == "auto" else min(room, most)


def _have_own_nodes(config: ExperimentConfig, run: RunConfig) -> bool:
    """Test whether the reward replicas of a run are on nodes without trainers: of another GPU model, or resource."""
    models, trainers, replicas = config.gpus, {*run.training.resources}, {*run.rewards.pool.resources}
    other_model = models is not None and models.of_rewards != models.trainers
    return other_model or bool(trainers - replicas and replicas - trainers)


def run_calls(config: RunConfig) -> float:
    """Count the velocity evaluations of one image in an update, over all workers; one with gradient counts as three."""
    plan, workers = schedule(config), config.training.data_workers
    gradients = plan.samples * plan.trained_work
    return workers * micro_batches(config) * (plan.rolled_out * plan.sampled_work + GRADIENT_CALL * gradients)


def hours_until(trial: PlannedTrial, update: int) -> float | None:
    """Hours of a run that is stopped at its evaluation after some updates; None if they cannot be planned.

    Args:
        trial: The run.
        update: Updates made; its last one ends it as planned.
    """
    plan, config = trial.plan, trial.config
    if not config.training.num_gpus or plan.run_s is None or plan.update_s is None:
        return None
    if update >= plan.updates:
        return plan.run_s / HOUR
    evaluations = 1 + update // config.evaluation.interval
    checkpoints = update // config.training.checkpoint_interval
    seconds = update * plan.update_s + evaluations * (plan.evaluation_s or 0.0) + checkpoints * plan.checkpoint_s
    return seconds / HOUR


def _searches(config: ExperimentConfig, searched: Examples) -> Iterator[tuple[RunGroup, list[PlannedTrial]]]:
    """Grids, which share a phase, then spaces, each a phase of its own."""
    for arm in sorted((arm for arm in config.arms if arm.searched), key=lambda arm: bool(arm.space)):
        trials, number = searched[arm.name], arm.num_trials(config.search.num_samples)
        if arm.grid:
            phase = "grids"
            means = worst = _means([_to_the_end(trial) for trial in trials])
        else:
            phase = f"search for {arm.name}"
            means = _means([_until(trial, _ends(config, trial)) for trial in trials])
            # Promotion leaves the same number of trials out in any case.
            sure = bool(config.search.scheduler.rungs)
            worst = _largest([_until(each, _ends(config, each)) if sure else _to_the_end(each) for each in trials])
        yield _group(arm.name, "grid" if arm.grid else "search", phase, number, trials, means, worst), trials


def _final_runs(
    config: ExperimentConfig, base: RunConfig, hardware: Hardware, searched: Examples
) -> Iterator[tuple[RunGroup, list[PlannedTrial]]]:
    """Arms and ablations with their seeds, planned with each of the values that a search may choose."""
    for part in config.parts:
        arm = part if isinstance(part, Arm) else config.reference
        own = {} if isinstance(part, Arm) else part.set
        chosen = [trial.values for trial in searched.get(config.origin(arm).name, ())] or [{}]
        runs = [(apply(base, {**config.changes(arm, values), **own}), values) for values in chosen]
        trials = [PlannedTrial(run, make_plan(run, hardware), values) for run, values in runs]
        each = [_to_the_end(trial) for trial in trials]
        if seeds := len(config.seeds_of(part)):
            yield _group(part.name, "seeds", "seeds", seeds, trials, _means(each), _largest(each)), trials


def _to_the_end(trial: PlannedTrial) -> Means:
    return _until(trial, [TrialEnd(trial.plan.updates, 1)])


def _ends(config: ExperimentConfig, trial: PlannedTrial) -> list[TrialEnd]:
    interval = trial.config.evaluation.interval
    return trial_ends(config.search.num_samples, trial.plan.updates, interval, config.search.scheduler)


def _until(trial: PlannedTrial, ends: Sequence[TrialEnd]) -> Means:
    """Means over trials that end after different numbers of updates."""
    number, calls = sum(end.trials for end in ends), run_calls(trial.config)
    updates = sum(end.update * end.trials for end in ends) / number
    hours = [(hours_until(trial, end.update), end.trials) for end in ends]
    timed = all(each is not None for each, _ in hours)
    mean = sum((each or 0.0) * trials for each, trials in hours) / number
    return Means(updates, updates * calls, mean if timed else None)


def _means(each: Sequence[Means]) -> Means:
    hours = [means.hours for means in each if means.hours is not None]
    mean = fmean(hours) if len(hours) == len(each) else None
    return Means(fmean(means.updates for means in each), fmean(means.calls for means in each), mean)


def _largest(each: Sequence[Means]) -> Means:
    hours = [means.hours for means in each if means.hours is not None]
    most = max(hours) if len(hours) == len(each) else None
    return Means(max(means.updates for means in each), max(means.calls for means in each), most)


def _group(
    arm: str, kind: str, phase: str, runs: int, trials: Sequence[PlannedTrial], expected: Means, worst: Means
) -> RunGroup:
    hours = [hours_until(trial, trial.plan.updates) for trial in trials]
    timed = [each for each in hours if each is not None]
    largest = max(trials, key=lambda trial: trial.plan.peak)
    return RunGroup(
        name=f"{arm}: {kind}",
        arm=arm,
        phase=phase,
        runs=runs,
        expected=expected,
        worst=worst,
        longest_hours=max(timed) if len(timed) == len(hours) else None,
        shortest_hours=min(timed) if len(timed) == len(hours) else None,
        trainer_gpus=max(trial.config.trainer_gpus for trial in trials),
        peak=largest.plan.peak,
        fits=largest.plan.fits,
        largest=", ".join(f"{path}={json.dumps(value)}" for path, value in largest.values.items()),
    )


def _notes(config: ExperimentConfig, trials: Sequence[PlannedTrial], gpus: float | None) -> Iterator[str]:
    scheduler = config.search.scheduler
    if scheduler.type == "asha" and any(arm.space for arm in config.arms):
        yield f"expected: {ASSUMPTION}"
    if scheduler.rungs:
        yield "promotion: an update costs the same in each rung; changes by the `set` of a rung are not counted"
    elif any(arm.space for arm in config.arms):
        yield "worst: no trial is stopped, and all trials of a space have its most expensive values"
    if any(arm.searched for arm in config.arms):
        yield "seeds: the search may choose any values, so expected is the mean over them, and worst the most expensive"
    yield "not counted: starts of runs, loading of weights, and the rewards of evaluations"
    if gpus is None and config.max_concurrent_trials == "auto":
        yield "one run at a time, as max_concurrent_trials is auto: give --gpus or --nodes"
    for trial in trials:
        yield from trial.plan.notes
        test = trial.config.evaluation.test
        if test and not test.num_prompts:
            yield "tests are not counted, as evaluation.test.num_prompts does not say how many images they have"
        if not trial.config.evaluation.num_prompts:
            yield "evaluations are not counted, as evaluation.num_prompts does not say how many images they have"
