"""Groups of runs in an experiment's plan: trials of searches, rungs and rounds, and seeds of arms and ablations."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from srpo_ray.config import ExperimentConfig, RunConfig, apply
from srpo_ray.config.arm import Ablation, Arm
from srpo_ray.config.continuation import evaluated_alike
from srpo_ray.config.continued_runs import part_settings, schedule_changes
from srpo_ray.config.experiment_parts import TEST
from srpo_ray.config.scheduler import UPDATES
from srpo_ray.evaluation.comparison import GRADIENT_CALL
from srpo_ray.planning.early_stopping import TrialEnd, trial_ends
from srpo_ray.planning.experiment import SEEDS, Means, RunGroup
from srpo_ray.planning.hardware import Hardware
from srpo_ray.planning.plan import Plan, make_plan
from srpo_ray.planning.schedule import micro_batches, schedule
from srpo_ray.planning.trials import PlannedTrial, at_size

HOUR = 3600
Examples = Mapping[str, list[PlannedTrial]]
"""Example trials of each searched arm, by the arm's name."""


def run_calls(config: RunConfig) -> float:
    """Count the velocity evaluations of one image in an update, over all workers; one with gradient counts as three."""
    plan, workers = schedule(config), config.training.data_workers
    without = plan.rolled_out * plan.sampled_work + plan.images * plan.compared
    return workers * micro_batches(config) * (without + GRADIENT_CALL * plan.samples * plan.trained_work)


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


def plan_searches(
    config: ExperimentConfig, base: RunConfig, hardware: Hardware, searched: Examples, workers: int
) -> Iterator[tuple[RunGroup, list[PlannedTrial]]]:
    """Grids, which share a phase, and their widening, then spaces, each a phase of its own, or one for each part."""
    for arm in (arm for arm in config.arms if arm.grid):
        trials = [trial for trial in searched[arm.name] if not trial.beyond]
        means = _means([_to_the_end(trial) for trial in trials])
        number = arm.num_trials(config.search.num_samples)
        yield _group(arm.name, "grid", "grids", number, trials, means, means), trials
    for arm in (arm for arm in config.arms if arm.widen):
        trials = searched[arm.name]
        each = [_to_the_end(trial) for trial in trials]
        group = _group(arm.name, "widening", "widening", 0, trials, _means(each), _largest(each))
        yield replace(group, most_runs=arm.widen, in_turns=True), trials
    for arm in (arm for arm in config.arms if arm.space):
        trials, number = searched[arm.name], config.search.num_samples
        if config.search.scheduler.continues:
            yield from _parts(config, base, hardware, arm, trials, workers)
            continue
        means = _means([_until(trial, _ends(config, trial)) for trial in trials])
        worst = _largest([_to_the_end(each) for each in trials])
        yield _group(arm.name, "search", f"search for {arm.name}", number, trials, means, worst), trials


def _parts(
    config: ExperimentConfig,
    base: RunConfig,
    hardware: Hardware,
    arm: Arm,
    examples: Sequence[PlannedTrial],
    workers: int,
) -> Iterator[tuple[RunGroup, list[PlannedTrial]]]:
    """Rungs of a promotion, or rounds of a population: each has settings of its own, and makes its own updates only."""
    scheduler, going = config.search.scheduler, config.search.num_samples
    num_updates = examples[0].config.training.num_updates
    settings = [part_settings(config, config.changes(arm, each.values), num_updates) for each in examples]
    chains = [plan_chain([apply(base, changes) for changes in parts], hardware, workers) for parts in settings]
    for index in range(len(chains[0])):
        trials = [PlannedTrial(*chain[index], example.values) for chain, example in zip(chains, examples, strict=True)]
        kind = f"{'rung' if scheduler.rungs else 'round'} {index + 1}"
        each = [_to_the_end(trial) for trial in trials]
        phase = f"search for {arm.name}, {kind}"
        group = _group(arm.name, kind, phase, going, trials, _means(each), _largest(each))
        yield replace(group, rung=index + 1 if scheduler.rungs else 0, is_part=True), trials
        going = scheduler.rungs[index].num_promoted(going) if scheduler.rungs else going


def plan_chain(configs: Sequence[RunConfig], hardware: Hardware, workers: int = 1) -> list[tuple[RunConfig, Plan]]:
    """Plan runs that continue from each other.

    Args:
        configs: The runs in their order.
        hardware: Hardware to plan for.
        workers: Workers of each, as for `at_size`.
    """
    found = list[tuple[RunConfig, Plan]]()
    for config in (at_size(each, workers) for each in configs):
        before = found[-1][0] if found else None
        taken = (before.training.num_updates, evaluated_alike(before, config)) if before else (0, False)
        found.append((config, make_plan(config, hardware, taken)))
    return found


def plan_seeds(
    config: ExperimentConfig, base: RunConfig, hardware: Hardware, searched: Examples, workers: int
) -> Iterator[tuple[RunGroup, list[PlannedTrial]]]:
    """Arms and ablations with their seeds, planned with each of the values that a search may choose.

    Earlier rounds of schedules come first, as they are trained: all runs of a round, then those of the next.
    """
    groups = [each for part in config.parts for each in _seeds(config, base, hardware, searched, part, workers)]
    last = [each for each in groups if each[0].phase == SEEDS]
    yield from sorted((each for each in groups if each not in last), key=lambda each: int(each[0].phase.split()[-1]))
    yield from last


def _seeds(
    config: ExperimentConfig,
    base: RunConfig,
    hardware: Hardware,
    searched: Examples,
    part: Arm | Ablation,
    workers: int,
) -> Iterator[tuple[RunGroup, list[PlannedTrial]]]:
    arm = part if isinstance(part, Arm) else config.reference
    own, seeds = ({} if isinstance(part, Arm) else part.set), len(config.seeds_of(part))
    examples = searched.get(config.origin(arm).name, ())
    chosen = [(trial.values, trial.beyond) for trial in examples] or [({}, False)]
    scheduled = bool(config.origin(arm).schedule)
    rounds = [schedule_changes(config, arm) if scheduled else [config.changes(arm, values)] for values, _ in chosen]
    chains = [plan_chain(_chain(base, changes, own), hardware, workers) for changes in rounds]
    for number in range(1, len(chains[0]) + 1 if seeds else 1):
        trials = [PlannedTrial(*chain[number - 1], *example) for chain, example in zip(chains, chosen, strict=True)]
        each = [_to_the_end(trial) for trial in trials]
        kind = SEEDS if number == len(chains[0]) else f"{SEEDS}, round {number}"
        means = _means([_to_the_end(trial) for trial in trials if not trial.beyond])
        yield _group(part.name, kind, kind, seeds, trials, means, _largest(each)), trials


def _chain(base: RunConfig, rounds: Sequence[Mapping[str, Any]], own: Mapping[str, Any]) -> list[RunConfig]:
    """Configs of the rounds of a seed; only the last weights are tested."""
    earlier = [{**changes, **own, UPDATES: changes[UPDATES], TEST: None} for changes in rounds[:-1]]
    return [apply(base, changes) for changes in (*earlier, {**rounds[-1], **own})]


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
    # A value that may be added is no reason to expect a shorter run.
    given = [each for each, trial in zip(hours, trials, strict=True) if each is not None and not trial.beyond]
    largest = max(trials, key=lambda trial: trial.plan.peak)
    return RunGroup(
        name=f"{arm}: {kind}",
        arm=arm,
        phase=phase,
        runs=runs,
        expected=expected,
        worst=worst,
        longest_hours=max(timed) if len(timed) == len(hours) else None,
        shortest_hours=min(given) if len(timed) == len(hours) else None,
        trainer_gpus=max(trial.config.trainer_gpus for trial in trials),
        peak=largest.plan.peak,
        fits=largest.plan.fits,
        largest=", ".join(f"{path}={json.dumps(value)}" for path, value in largest.values.items()),
    )
