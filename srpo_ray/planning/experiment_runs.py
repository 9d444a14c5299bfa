"""Planning of an experiment's runs: searches with early stopping, then arms and ablations with their seeds."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from srpo_ray.config import ExperimentConfig, RunConfig, apply
from srpo_ray.config.pool_key import pool_key
from srpo_ray.planning.early_stopping import ASSUMPTION
from srpo_ray.planning.experiment import ExperimentPlan
from srpo_ray.planning.experiment_groups import plan_searches, plan_seeds
from srpo_ray.planning.hardware import Hardware
from srpo_ray.planning.prices import Prices
from srpo_ray.planning.starts import PHASE_S, RUN_S
from srpo_ray.planning.trials import PlannedTrial, example_trials


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

    Returns:
        The plan. Runs with a range of workers have the fewest, and in `grown` the most that the cluster has room for.

    Raises:
        ValueError: If a run cannot be planned, or the cluster has no room for one run.
    """
    plan = _plan_at(1, config, base, hardware, prices, gpus)
    every = (*config.trained_changes(), *config.trial_changes())
    ranging = [run for _, changes in every if (run := apply(base, changes)).training.elastic]
    if not ranging:
        return plan
    most = max(run.training.max_workers for run in ranging)
    each, beside = ranging[0].training.num_gpus, plan.reward_gpus - plan.reward_gpus_apart
    if gpus is not None and each:
        most = min(most, int((gpus - beside) / each + 1e-9))
    return replace(plan, grown=_plan_at(most, config, base, hardware, prices, gpus))


def _plan_at(
    workers: int,
    config: ExperimentConfig,
    base: RunConfig,
    hardware: Hardware,
    prices: Prices | None,
    gpus: float | None,
) -> ExperimentPlan:
    """Plan an experiment whose runs have one number of workers all the time, as far as they have a range."""
    searched = {arm.name: example_trials(config, base, arm, hardware, workers) for arm in config.arms if arm.searched}
    parts = (config, base, hardware, searched, workers)
    planned = [*plan_searches(*parts), *plan_seeds(*parts)]
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
    """Check that the budget of an experiment is enough for the least of use, see `least_cost`, if that can be timed.

    Raises:
        ValueError: If it is not.
    """
    cost, in_parts = plan.least_cost, any(group.is_part for group in plan.groups)
    least = (
        "one trial through its parts and the runs after the search"
        if in_parts
        else "the cheapest trial (without a search: run)"
    )
    for name, needed in (cost.amounts(plan.prices) if cost else {}).items():
        limit = plan.limits.get(name)
        if limit is not None and limit < needed:
            raise ValueError(
                f"budget.{name}: expected at least {needed:.3g} for {least} of {plan.name} by its plan"
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


def _notes(config: ExperimentConfig, trials: Sequence[PlannedTrial], gpus: float | None) -> Iterator[str]:
    scheduler = config.search.scheduler
    if scheduler.type == "asha" and any(arm.space for arm in config.arms):
        yield f"expected: {ASSUMPTION}"
    if scheduler.continues:
        yield "parts of a search: a run counts the updates of its own rung or round only, with that part's settings"
    elif any(arm.space for arm in config.arms):
        yield "worst: no trial is stopped, and all trials of a space have its most expensive values"
    if any(arm.widen for arm in config.arms):
        yield "widening: expected adds no value to a grid, worst adds as many as `widen` allows, one after the other"
    if any(arm.searched for arm in config.arms):
        yield "seeds: the search may choose any values, so expected is the mean over them, and worst the most expensive"
    yield "not counted: loading of weights, and the rewards of evaluations; starts are counted for a budget only"
    if config.budget is not None:
        yield f"starts: {PHASE_S:g} s of each phase and {RUN_S:g} s of each run, until the experiment has measured some"
    if gpus is None and config.max_concurrent_trials == "auto":
        yield "one run at a time, as max_concurrent_trials is auto: give --gpus or --nodes"
    for trial in trials:
        yield from trial.plan.notes
        test = trial.config.evaluation.test
        if test and not test.num_prompts:
            yield "tests are not counted, as evaluation.test.num_prompts does not say how many images they have"
        if not trial.config.evaluation.num_prompts:
            yield "evaluations are not counted, as evaluation.num_prompts does not say how many images they have"
