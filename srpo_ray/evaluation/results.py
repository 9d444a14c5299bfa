"""Results of an experiment as plain values: runs, searches, arms, and their gains over the baseline."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from srpo_ray.evaluation.crossed import Estimate, mean_over
from srpo_ray.evaluation.image_scores import ImageScores
from srpo_ray.evaluation.reward_hacking import HackingSign
from srpo_ray.evaluation.search_parts import Member, RoundResult, RungResult, lineage
from srpo_ray.evaluation.search_range import SearchedValue

CONTENT_ACCURACY = "truth/content_accuracy"
UTILITY = "truth/utility/"
MEAN_UTILITY = f"{UTILITY}test/mean"
"""Mean utility of the simulated people who test; the small world only."""
TRAINED_REWARD = "reward/total"
"""The weighted sum of the trained models' scores for the plain prompt."""
OWN_WORDS = f"{TRAINED_REWARD}/trained"
"""The same for a run's own control words, positive minus negative; runs with a relative reward only."""
TRAINED_GAIN = f"{TRAINED_REWARD}/gain"
"""Rise of the reward that the run itself is trained to raise since its first evaluation, in standard deviations of that
reward over the base model's images; so runs that are trained on different rewards or words share a scale."""
CALLS, SECONDS = "cost/calls", "cost/seconds"
"""Metrics of an evaluation: velocity evaluations and seconds that the run's updates had cost by then."""

Kind = Literal["base", "trial", "repeat", "ablation"]


@dataclass(frozen=True)
class TrialRow:
    """One run of an experiment."""

    name: str
    kind: Kind
    """`base`: the baseline; `trial`: a run of a search; `repeat`: an arm with one seed; `ablation`: the reference arm
    with changes."""
    label: str
    """Description of the run for people."""
    params: Mapping[str, Any]
    """Dotted config path -> value, for example `{"training.optimizer.lr": 3e-6}`."""
    history: Sequence[Mapping[str, float]]
    """One mapping per evaluation, in order: `step` and the metrics."""
    status: str
    """`finished`, `stopped: reward hacking`, `stopped early` or `failed: why`; before its end `running` or
    `interrupted`."""
    seconds: float
    seed: int
    gallery: Path | None = None
    """Image file with base and tuned images."""
    signs: Sequence[HackingSign] = ()
    """Signs of reward hacking, in order."""
    best_update: int | None = None
    """Update of the best evaluation if its weights stand for the run; its checkpoint is kept."""
    images: ImageScores | None = None
    """Scores prompt by prompt; None for a run without an evaluation after training."""
    test: Sequence[Mapping[str, float]] = ()
    """Means on the test prompts, `update` and the metrics: of the base model, then of the weights that stand for the
    run; empty without a test."""

    @property
    def failed(self) -> bool:
        """True if the run failed; its numbers are shown and not ranked."""
        return self.status.startswith("failed")

    @property
    def ended(self) -> bool:
        """True if the run ended at its last update or by reward-hacking detection."""
        return self.status in ("finished", "stopped: reward hacking")

    @property
    def evaluated(self) -> Mapping[str, float]:
        """Evaluation by which the run is ranked: of the weights that stand for it, the last or the best."""
        best = [evaluation for evaluation in self.history if evaluation.get("update") == self.best_update]
        return (best or self.history or [{}])[-1]

    def value(self, metric: str) -> float | None:
        """The metric at the evaluation that stands for the run; None if it is missing, NaN or infinite there."""
        return finite(self.evaluated.get(metric))

    def value_at(self, metric: str, update: int | None) -> float | None:
        """The metric at the evaluation after that many updates; None if there is none, or no finite value in it."""
        return next((finite(each.get(metric)) for each in self.history if each.get("update") == update), None)

    def test_change(self, metric: str) -> float | None:
        """The metric on the test prompts minus the base model's; None if either is missing or not finite."""
        if not self.test or self.test[0].get("update") != 0:
            return None
        base, tested = (finite(each.get(metric)) for each in (self.test[0], self.test[-1]))
        return None if base is None or tested is None else tested - base

    @property
    def unfinished(self) -> bool:
        """True if the run has neither ended nor failed yet, so that its last evaluation is no result."""
        return self.status in ("running", "interrupted")

    @property
    def stopped_early(self) -> bool:
        """True if the scheduler stopped the run, so that its last evaluation is that of a shorter training."""
        return self.status == "stopped early"


@dataclass(frozen=True)
class BudgetUse:
    """Use of one limit of an experiment's budget."""

    name: Literal["gpu_hours", "hours", "money"]
    limit: float
    search: float
    """Amount that the search has spent."""
    final: float
    """Amount that the runs after the search have spent."""

    @property
    def left(self) -> float:
        """Amount that is left; 0 if more was spent."""
        return max(0.0, self.limit - self.search - self.final)


@dataclass(frozen=True)
class Search:
    """Trials of one arm, from which its values were chosen."""

    arm: str
    rows: Sequence[TrialRow]
    chosen: str
    """Name of the row whose values the arm takes."""
    drawn: bool = True
    """True if values were drawn from a space, False if they are the combinations of a grid."""
    searched: Sequence[SearchedValue] = ()
    """Ranges of the searched values, and the chosen ones."""
    num_added: int = 0
    """Values that were added to the grid beyond its ends, with those that a budget had no room for."""
    breaking: Sequence[str] = ()
    """Names of the trials that ended and let a limited metric fall too far."""
    front: Sequence[str] = ()
    """Names of the trials on the Pareto front of the objectives, which no other one beats in all of them."""
    rungs: Sequence[RungResult] = ()
    """Rungs of a search with promotion, the first one first."""
    rounds: Sequence[RoundResult] = ()
    """Rounds of population based training; the values of the chosen trial are a schedule then."""
    num_parts: int = 0
    """Rungs or rounds that the search has if no budget ends it; 0 without any."""

    @property
    def lineage(self) -> list[Member]:
        """Members of a population whose updates the chosen trial's weights have, by round; empty without rounds."""
        return lineage(self.rounds, self.chosen)

    @property
    def schedule(self) -> list[tuple[int, Mapping[str, Any]]]:
        """Updates at the end of each round, and the chosen trial's values in it; empty without rounds."""
        return [(part.updates, member.values) for part, member in zip(self.rounds, self.lineage, strict=True)]


@dataclass(frozen=True)
class Arm:
    """One method or ablation, trained with several seeds."""

    name: str
    kind: Literal["base", "method", "ablation"]
    changes: Mapping[str, Any]
    """Dotted config path -> value, over the base config; searched values among them."""
    rows: Sequence[TrialRow]
    """One per seed."""

    @property
    def ended(self) -> list[TrialRow]:
        """The runs that came to an end of their own; no mean counts the others."""
        return [row for row in self.rows if row.ended]

    def over_seeds(self, metric: str) -> Estimate | None:
        """The metric at the last evaluations, over the seeds whose run ended; prompts are not counted."""
        values = [[value] for row in self.ended if (value := row.value(metric)) is not None]
        return mean_over(values) if values else None


@dataclass(frozen=True)
class Results:
    """All runs of an experiment and what they are compared by."""

    title: str
    objective: str
    """Metric that trials are chosen by and arms are compared by, a held-out score."""
    mode: Literal["max", "min"]
    """Direction of a better objective."""
    created: str
    command: str
    commit: str | None
    hardware: str
    reference: str
    """Name of the arm that ablations were made of and that other arms are compared with."""
    baseline_row: TrialRow | None
    """The model before training."""
    arms: Sequence[Arm]
    """Methods, then ablations of the reference."""
    searches: Sequence[Search] = ()
    best_config_yaml: str = ""
    """Config of the best arm."""
    notes: Sequence[str] = field(default=())
    target_share: float = 0.5
    """Share of the reference's gain over the baseline that costs are counted to."""
    equal_gain: Sequence[str] = ()
    """Metrics at whose equal gain side effects are compared; empty takes the objective."""
    objectives: Mapping[str, Literal["max", "min"]] = field(default_factory=dict)
    """Metrics of the Pareto front and their directions; empty without one."""
    budget: Sequence[BudgetUse] = ()
    """Use of each limit of the budget; empty without a budget."""
    reward: str = TRAINED_GAIN
    """Metric of the reward that was trained on."""

    @property
    def rows(self) -> list[TrialRow]:
        """All runs: baseline, trials, arms, ablations."""
        baseline = [] if self.baseline_row is None else [self.baseline_row]
        return [*baseline, *self.trials, *(row for arm in self.arms for row in arm.rows)]

    @property
    def trials(self) -> list[TrialRow]:
        """Runs of all searches."""
        return [row for search in self.searches for row in search.rows]

    @property
    def baseline_and_arms(self) -> list[Arm]:
        """The baseline as an arm, if there is one, then methods and ablations."""
        baseline = [] if self.baseline_row is None else [Arm("baseline", "base", {}, [self.baseline_row])]
        return [*baseline, *self.arms]

    @property
    def methods(self) -> list[Arm]:
        """The arms without ablations."""
        return [arm for arm in self.arms if arm.kind == "method"]

    @property
    def ablations(self) -> list[Arm]:
        """The reference arm with changes."""
        return [arm for arm in self.arms if arm.kind == "ablation"]

    @property
    def is_sweep(self) -> bool:
        """True if one method was searched and no other is compared with it."""
        return len(self.methods) == len(self.searches) == 1

    def arm(self, name: str) -> Arm:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    def of(self, search: Search) -> "Results":
        """The part of the results that belongs to one search: its trials, its arm, ablations of that arm.

        Its baseline is what the trials started from, as they may be evaluated on other noise than the arms.
        """
        start = next((row.history[:1] for row in search.rows if row.value_at(self.objective, 0) is not None), None)
        baseline = self.baseline_row and replace(self.baseline_row, history=start or self.baseline_row.history)
        arms = [arm for arm in self.methods if arm.name == search.arm]
        ablations = self.ablations if search.arm == self.reference else []
        return replace(self, baseline_row=baseline, searches=[search], arms=[*arms, *ablations])

    @property
    def best_row(self) -> TrialRow | None:
        """The trial that the reference's search chose, else that of the first search; None without searches."""
        searches = sorted(self.searches, key=lambda search: search.arm != self.reference)
        return next((row for search in searches for row in search.rows if row.name == search.chosen), None)

    def baseline(self, metric: str) -> float | None:
        """The baseline's value; without a baseline, that of a run's evaluation at update 0."""
        base = [] if self.baseline_row is None else [self.baseline_row.value(metric)]
        starts = [row.history[0] for row in self.rows if row.history and row.history[0].get("update") == 0]
        values = base + [float(start.get(metric, math.nan)) for start in starts]
        return next((value for value in values if value is not None and math.isfinite(value)), None)

    def change(self, row: TrialRow, metric: str, update: int | None = None) -> float | None:
        """The row's value minus its own at update 0, or minus the baseline's if it was not evaluated there.

        Trials may be evaluated on other noise than arms, and a score for control words depends on the run's own words.

        Args:
            row: The run.
            metric: The metric.
            update: Updates before the evaluation; None takes the one that stands for the run.
        """
        value, base = row.value(metric) if update is None else row.value_at(metric, update), row.value_at(metric, 0)
        base = self.baseline(metric) if base is None else base
        return None if value is None or base is None else value - base

    def improvement(self, row: TrialRow) -> float | None:
        """Gain of the row's objective over the baseline; negative if worse."""
        change = self.change(row, self.objective)
        return change if change is None or self.mode == "max" else -change

    def spent(self, arm: Arm) -> float | None:
        """The arm's velocity evaluations in units of those of the reference; None where either is not known."""
        own, reference = arm.over_seeds(CALLS), self.arm(self.reference).over_seeds(CALLS)
        return own.mean / reference.mean if own and reference and reference.mean else None

    @property
    def target(self) -> float | None:
        """The objective whose cost is compared; None if the reference arm is no better than the baseline."""
        return self.target_at(self.target_share)

    def target_at(self, share: float) -> float | None:
        """The objective at a share of the reference arm's gain; None if that arm is no better than the baseline."""
        reached, base = self.arm(self.reference).over_seeds(self.objective), self.baseline(self.objective)
        if reached is None or base is None or (reached.mean > base) != (self.mode == "max"):
            return None
        return base + share * (reached.mean - base)


def finite(value: float | None) -> float | None:
    """The value, or None if it is missing, NaN or infinite."""
    return float(value) if value is not None and math.isfinite(value) else None
