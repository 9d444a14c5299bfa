"""Terms of an experiment's budget: its limits, the runs that it pays for, and their planned cost."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from srpo_ray.config import ExperimentConfig, RunConfig, apply
from srpo_ray.config.arm import Ablation, Arm
from srpo_ray.config.base import folder_name
from srpo_ray.config.budget import Limit, gpu_models
from srpo_ray.config.continued_runs import part_settings, schedule_changes
from srpo_ray.config.evaluation import EvaluationConfig
from srpo_ray.config.pool_key import pool_key
from srpo_ray.planning.prices import Prices

_RUN = re.compile(r"(?P<arm>.+)_(?P<kind>trial|seed)_(?P<number>[^_]+?)(_rung_(?P<rung>\d+)|_round_(?P<round>\d+))?")


class RunName(NamedTuple):
    """Arm, kind and part of a run, which its name begins and ends with."""

    arm: str
    is_trial: bool
    rung: int = 0
    """Number of its rung, from 1; 0 for a run of no rung."""
    round: int = 0
    """Number of its round of a population or schedule, from 1; 0 for a run of no round, and for the last of a seed."""

    @property
    def part(self) -> int:
        """Number of its rung or round; 0 for neither."""
        return self.rung or self.round


def parse_name(name: str) -> RunName:
    """Read arm, kind and part from a run's name, such as `SRPO_trial_3`, `SRPO_trial_3_rung_2` or `SRPO_seed_1`."""
    match = _RUN.fullmatch(name)
    if not match:
        return RunName(name, is_trial=True)
    return RunName(match["arm"], match["kind"] == "trial", int(match["rung"] or 0), int(match["round"] or 0))


class FinalRun(NamedTuple):
    """Run of an arm or ablation that follows the search, with all rounds of its schedule."""

    arm: str
    """Name of the folder of the arm whose search finds its values."""
    updates: int
    gpus: float
    """GPUs that its trainers reserve."""
    tests: float = 0.0
    """Duration of its tests in evaluations on validation prompts, by the number of images; 0 without a test."""
    rounds: int = 1
    """Runs of its schedule, each of which waits for those of the round before; 1 without one."""


class Part(NamedTuple):
    """Rung or round of a search whose trials are trained in parts."""

    rung: int
    """Number of the rung, from 1; 0 for a round."""
    updates: int
    """Updates that a trial makes in the part."""
    keep: float | None
    """Share of its trials that the next part continues; None in the last part."""

    def num_promoted(self, trials: int) -> int:
        """Number of trials that the next part continues.

        Args:
            trials: Trials that are trained in this part.
        """
        # The small number allows for shares such as 0.3, whose products may fall short of whole numbers.
        return 0 if self.keep is None else max(1, int(trials * self.keep + 1e-9))


@dataclass(frozen=True)
class BudgetTerms:
    """Budget of an experiment, and what its runs will reserve."""

    limits: Mapping[Limit, float]
    prices: Prices | None
    reward_gpus: float
    """GPUs that all reward pools reserve while the experiment runs."""
    concurrency: int
    """Runs at the same time."""
    searched: Sequence[str] = ()
    """Folder names of the searched arms in the order of their searches."""
    grids: int = 0
    """Number of the first of them that share one phase."""
    finals: Sequence[FinalRun] = ()
    planned: Mapping[str, float] = field(default_factory=dict[str, float])
    """Folder name of an arm, or that and a rung such as `SRPO_rung_2` -> hours of one update by the plan; used until a
    run is measured."""
    parts: Mapping[str, Sequence[Part]] = field(default_factory=dict[str, Sequence[Part]])
    """Folder name of an arm -> rungs or rounds of its search, if its trials are trained in parts."""
    schedules: Mapping[str, Sequence[int]] = field(default_factory=dict[str, Sequence[int]])
    """Folder name of an arm or ablation -> updates of each round of its seeds, if they follow a schedule."""

    ranges: bool = False
    """True if runs may have several numbers of workers."""

    def share(self, arm: str) -> float:
        """Share of the search's part that may be spent when the search of an arm ends.

        Searches follow one another. Each has an equal share, and what one leaves is for the next ones.
        """
        if arm not in self.searched:
            return 1.0
        place = self.searched.index(arm) + 1
        return max(place, self.grids if place <= self.grids else 0) / len(self.searched)


def plan_budget(config: ExperimentConfig, base: RunConfig) -> dict[str, float]:
    """Plan the hours of one update of each arm and rung, and check that the budget is enough for the least it can buy.

    Args:
        config: The experiment.
        base: Config that its runs start from.

    Returns:
        Name of an arm, or that and a rung such as `SRPO_rung_2` -> hours of one update, with a run's share of
        everything else; empty without a budget, or without the GPU model of the trainers.

    Raises:
        ValueError: If the budget is smaller than one run, or than the smallest whole search in parts.
    """
    models = gpu_models(config.gpus, config.price)
    if config.budget is None or models is None:
        return {}
    # Plans import the model stack, which an experiment without them does not need.
    from srpo_ray.planning.experiment_runs import check_budget, make_experiment_plan
    from srpo_ray.planning.hardware import Hardware

    plan = make_experiment_plan(config, base, Hardware(models.trainers), Prices.of(config))
    check_budget(plan)
    found = {
        f"{folder_name(group.arm)}_rung_{group.rung}" if group.rung else folder_name(group.arm): group.worst
        for group in plan.groups
    }
    return {name: means.hours / means.updates for name, means in found.items() if means.hours and means.updates}


def budget_terms(config: ExperimentConfig, base: RunConfig, planned: Mapping[str, float]) -> BudgetTerms | None:
    """Collect the terms of an experiment's budget; None without one.

    Args:
        config: The experiment.
        base: Config that its runs start from.
        planned: Hours of one update by the plan, see `plan_budget`.
    """
    if config.budget is None:
        return None
    searched = sorted((arm for arm in config.arms if arm.searched), key=lambda arm: bool(arm.space))
    runs = [apply(base, changes) for _, changes in (*config.trained_changes(), *config.trial_changes())]
    in_parts = [arm for arm in config.arms if arm.space and config.search.scheduler.continues]
    return BudgetTerms(
        limits=config.budget.limits,
        prices=Prices.of(config),
        reward_gpus=sum({pool_key(run): run.reward_gpus for run in runs}.values()),
        concurrency=config.concurrency,
        searched=[folder_name(arm.name) for arm in searched],
        grids=sum(bool(arm.grid) for arm in searched),
        finals=[*_final_runs(config, base)],
        planned=planned,
        ranges=any(run.training.elastic for run in runs),
        parts={folder_name(arm.name): _parts(config, base, arm) for arm in in_parts},
        schedules={
            folder_name(part.name): rounds
            for part in config.parts
            if len(rounds := _rounds(config, base, part)) > 1 and config.seeds_of(part)
        },
    )


def _differences(ends: Sequence[int]) -> list[int]:
    return [end - start for start, end in zip((0, *ends), ends, strict=False)]


def _parts(config: ExperimentConfig, base: RunConfig, arm: Arm) -> list[Part]:
    scheduler, changes = config.search.scheduler, config.changes(arm)
    num_updates = apply(base, config.trial_settings(changes)).training.num_updates
    settings = part_settings(config, changes, num_updates)
    updates = _differences([apply(base, each).training.num_updates for each in settings])
    if scheduler.rungs:
        pairs = enumerate(zip(updates, scheduler.rungs, strict=True), 1)
        return [Part(number, each, rung.keep) for number, (each, rung) in pairs]
    return [Part(0, each, 1.0 if number < len(updates) else None) for number, each in enumerate(updates, 1)]


def _trained(config: ExperimentConfig, base: RunConfig, part: Arm | Ablation) -> RunConfig:
    """Config of the last run of a seed of an arm or ablation, without searched values."""
    arm = part if isinstance(part, Arm) else config.reference
    own = {} if isinstance(part, Arm) else part.set
    changes = schedule_changes(config, arm)[-1] if config.origin(arm).schedule else config.changes(arm)
    return apply(base, {**changes, **own})


def _rounds(config: ExperimentConfig, base: RunConfig, part: Arm | Ablation) -> list[int]:
    """Updates of each round of a seed: those of a schedule in the file, or of one that a population writes."""
    origin = config.origin(part if isinstance(part, Arm) else config.reference)
    last = _trained(config, base, part).training.num_updates
    ends = [each.updates for each in origin.schedule]
    if origin.space and config.search.scheduler.type == "pbt":
        num_updates = apply(base, config.trial_settings(config.changes(origin))).training.num_updates
        ends = config.search.scheduler.ends(num_updates)
    return _differences([*ends[:-1], last])


def _final_runs(config: ExperimentConfig, base: RunConfig) -> Iterator[FinalRun]:
    for part in config.parts:
        origin = config.origin(part if isinstance(part, Arm) else config.reference)
        run, rounds = _trained(config, base, part), len(_rounds(config, base, part))
        final = FinalRun(
            folder_name(origin.name), run.training.num_updates, run.fewest_trainer_gpus, tests_of(run), rounds
        )
        yield from (final for _ in config.seeds_of(part))


def tests_of(run: RunConfig) -> float:
    """Duration of a run's two tests, of the base model and of its own weights, in evaluations.

    It counts image tokens, as if the time of an image were proportional to them.
    """
    tested, evaluation = run.evaluation.tested, run.evaluation
    if tested is None:
        return 0.0
    # A file of unknown length counts as many prompts as the validation has.
    return 2 * _tokens(run, tested, evaluation.num_prompts or 1) / _tokens(run, evaluation, 1)


def _tokens(run: RunConfig, evaluation: EvaluationConfig, otherwise: int) -> int:
    images = (evaluation.num_prompts or otherwise) * evaluation.samples_per_prompt
    return images * evaluation.calls * run.model_at(evaluation).size.num_tokens
