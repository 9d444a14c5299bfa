"""What a study of methods found, as plain values: means over seeds, differences, what a score cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from srpo_ray.evaluation.results import OWN_WORDS, TRAINED_GAIN, TRAINED_REWARD, TrialRow
from srpo_ray.evaluation.seeds import OverSeeds, holm

CALLS, SECONDS = "cost/calls", "cost/seconds"
"""Metrics of an evaluation in a study: what the run's updates had cost by then."""

TARGET_SHARES = (0.25, 0.5, 0.75, 1.0)
"""Shares of the ablated method's gain at which the costs of all methods are compared."""

GRADIENT_CALL = 3.0
"""A call with gradient counts as three: one forward, and a backward of about twice its work."""


@dataclass(frozen=True)
class Arm:
    """One method or ablation, trained with several seeds."""

    name: str
    kind: Literal["base", "method", "ablation"]
    changes: Mapping[str, Any]
    """Dotted config path -> value, over the base config; tuned values among them."""
    rows: Sequence[TrialRow]
    """One per seed."""

    @property
    def ended(self) -> list[TrialRow]:
        """The runs that came to an end of their own; no figure counts the others."""
        return [row for row in self.rows if row.ended]

    def over_seeds(self, metric: str) -> OverSeeds | None:
        """The metric over the seeds whose run ended."""
        return OverSeeds.of([value for row in self.ended if (value := row.value(metric)) is not None])


@dataclass(frozen=True)
class Tuned:
    """How a method's values were chosen."""

    method: str
    rows: Sequence[TrialRow]
    chosen: str
    """Name of the row that was kept."""


@dataclass(frozen=True)
class StudyReport:
    """All that a study found."""

    title: str
    objective: str
    mode: Literal["max", "min"]
    ablated: str
    """Name of the arm that ablations were made of."""
    target_share: float
    created: str
    command: str
    commit: str | None
    hardware: str
    arms: Sequence[Arm]
    """The base model first, then methods, then ablations."""
    tuning: Sequence[Tuned] = ()
    notes: Sequence[str] = field(default=())

    def arm(self, name: str) -> Arm:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    @property
    def methods(self) -> list[Arm]:
        """What was compared, without the base model."""
        return [arm for arm in self.arms if arm.kind == "method"]

    @property
    def ablations(self) -> list[Arm]:
        """What `ablated` was changed to."""
        return [arm for arm in self.arms if arm.kind == "ablation"]

    def baseline(self, metric: str) -> float | None:
        """The metric before training."""
        base = next((arm for arm in self.arms if arm.kind == "base"), None)
        return base.rows[0].value(metric) if base else None

    def spent(self, arm: Arm) -> float | None:
        """The arm's velocity evaluations in units of those of `ablated`; None where either is not known."""
        own, reference = arm.over_seeds(CALLS), self.arm(self.ablated).over_seeds(CALLS)
        return own.mean / reference.mean if own and reference and reference.mean else None

    @property
    def target(self) -> float | None:
        """The objective whose cost is compared."""
        reached, base = self.arm(self.ablated).over_seeds(self.objective), self.baseline(self.objective)
        if reached is None or base is None:
            return None
        return base + self.target_share * (reached.mean - base)


def difference(arm: Arm, reference: Arm, metric: str) -> OverSeeds | None:
    """How much higher the metric is than in the reference, run by run of the same seed; None if no seed is shared."""
    others = {row.seed: row for row in reference.ended}
    pairs = [(row.value(metric), others[row.seed].value(metric)) for row in arm.ended if row.seed in others]
    return OverSeeds.of([one - other for one, other in pairs if one is not None and other is not None])


@dataclass(frozen=True)
class Gap:
    """A cell of a table of differences."""

    seeds: OverSeeds
    """The difference over seeds."""
    significant: bool
    """True if it differs from zero after Holm's correction for all cells of the table."""


def gap_table(report: StudyReport, arms: Sequence[Arm], metrics: Sequence[str]) -> dict[tuple[str, str], Gap]:
    """(arm, metric) -> difference from the ablated method, tested together; without cells that share no seed."""
    reference = report.arm(report.ablated)
    found = {
        (arm.name, metric): seeds
        for arm in arms
        if arm is not reference
        for metric in metrics
        if (seeds := difference(arm, reference, metric)) is not None
    }
    significant = holm([seeds.p_value for seeds in found.values()])
    return {cell: Gap(seeds, kept) for (cell, seeds), kept in zip(found.items(), significant, strict=True)}


def cost_to_reach(row: TrialRow, metric: str, target: float, mode: str, cost: str = CALLS) -> float | None:
    """What a run had cost when it first reached a score, between two evaluations by proportion; None if it never did.

    Args:
        row: The run, with `cost` in its history.
        metric: The score.
        target: Its value to reach.
        mode: `max` if higher is better, `min` if lower is.
        cost: Metric of the cost.
    """
    sign = 1.0 if mode == "max" else -1.0
    before: tuple[float, float] | None = None
    for evaluation in row.history:
        spent, lead = evaluation[cost], sign * (evaluation[metric] - target)
        if lead >= 0:
            if before is None:
                return spent
            share = -before[1] / (lead - before[1])
            return before[0] + share * (spent - before[0])
        before = (spent, lead)
    return None


def arm_cost(report: StudyReport, arm: Arm, cost: str = CALLS, target: float | None = None) -> OverSeeds | None:
    """Cost until a score was first reached; None unless every run of the arm reached it.

    Args:
        report: The study.
        arm: Whose runs.
        cost: Metric of the cost.
        target: The score; None takes the study's.
    """
    target = report.target if target is None else target
    if target is None:
        return None
    costs = [cost_to_reach(row, report.objective, target, report.mode, cost) for row in arm.ended]
    return OverSeeds.of([value for value in costs if value is not None]) if None not in costs else None


def common_targets(report: StudyReport) -> list[float]:
    """Scores whose cost is compared for all methods: shares of the ablated method's mean gain; empty without one."""
    reached, base = report.arm(report.ablated).over_seeds(report.objective), report.baseline(report.objective)
    if reached is None or base is None:
        return []
    return [base + share * (reached.mean - base) for share in TARGET_SHARES]


def study_metrics(report: StudyReport) -> list[str]:
    """The table's columns: objective, trained reward, other held-out scores, truths, diversity."""
    found = {name for arm in report.arms for row in arm.rows for evaluation in row.history for name in evaluation}
    accuracies = {name for name in found if name.endswith("_accuracy") and name != "truth/content_accuracy"}
    rewards = [TRAINED_GAIN, TRAINED_REWARD, f"{TRAINED_REWARD}/relative", OWN_WORDS]
    groups = [sorted(name for name in found if name.startswith(prefix)) for prefix in ("evaluator/", "truth/")]
    ordered = [report.objective, f"{report.objective}/relative", *rewards, *groups[0], *groups[1], "image/diversity"]
    return [name for name in dict.fromkeys(ordered) if name in found - accuracies]
