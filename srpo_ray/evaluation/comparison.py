"""Comparison of arms: differences over seeds, costs of a score, metrics to show."""

from collections.abc import Sequence
from dataclasses import dataclass

from srpo_ray.evaluation.results import CALLS, OWN_WORDS, TRAINED_GAIN, TRAINED_REWARD, Arm, Results, TrialRow, finite
from srpo_ray.evaluation.seeds import OverSeeds, holm

TARGET_SHARES = (0.25, 0.5, 0.75, 1.0)
"""Shares of the reference arm's gain at which the costs of all methods are compared."""

EQUAL = 0.05
"""Relative difference in compute up to which two arms count as trained for as long."""
GRADIENT_CALL = 3.0
"""A call with gradient counts as three: one forward, and a backward of about twice its work."""


def difference(arm: Arm, reference: Arm, metric: str) -> OverSeeds | None:
    """Difference of the metric from the reference, paired by seed; None if no seed is shared."""
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


def gap_table(results: Results, arms: Sequence[Arm], metrics: Sequence[str]) -> dict[tuple[str, str], Gap]:
    """(arm, metric) -> difference from the reference arm, tested together; without cells that share no seed."""
    reference = results.arm(results.reference)
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
    """Interpolate the cost at which a run first reached a score, between two evaluations; None if it never did.

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
        spent, score = finite(evaluation.get(cost)), finite(evaluation.get(metric))
        if spent is None or score is None:
            continue
        lead = sign * (score - target)
        if lead >= 0:
            if before is None:
                return spent
            share = -before[1] / (lead - before[1])
            return before[0] + share * (spent - before[0])
        before = (spent, lead)
    return None


def arm_cost(results: Results, arm: Arm, cost: str = CALLS, target: float | None = None) -> OverSeeds | None:
    """Cost until a score was first reached; None unless every run of the arm reached it.

    Args:
        results: The results.
        arm: Whose runs.
        cost: Metric of the cost.
        target: The score; None takes that of the results.
    """
    target = results.target if target is None else target
    if target is None:
        return None
    costs = [cost_to_reach(row, results.objective, target, results.mode, cost) for row in arm.ended]
    return OverSeeds.of([value for value in costs if value is not None]) if None not in costs else None


def common_targets(results: Results) -> list[float]:
    """Scores whose cost is compared for all methods: shares of the reference arm's mean gain; empty without one."""
    reached, base = results.arm(results.reference).over_seeds(results.objective), results.baseline(results.objective)
    if reached is None or base is None:
        return []
    return [base + share * (reached.mean - base) for share in TARGET_SHARES]


def arm_metrics(results: Results) -> list[str]:
    """The table's columns: objective, trained reward, other held-out scores, truths, diversity."""
    found = {name for arm in results.arms for row in arm.rows for evaluation in row.history for name in evaluation}
    accuracies = {name for name in found if name.endswith("_accuracy") and name != "truth/content_accuracy"}
    rewards = [TRAINED_GAIN, TRAINED_REWARD, f"{TRAINED_REWARD}/relative", OWN_WORDS]
    groups = [sorted(name for name in found if name.startswith(prefix)) for prefix in ("evaluator/", "truth/")]
    ordered = [results.objective, f"{results.objective}/relative", *rewards, *groups[0], *groups[1], "image/diversity"]
    return [name for name in dict.fromkeys(ordered) if name in found - accuracies]


def compute_notes(arms: Sequence[Arm], reference: str) -> list[str]:
    """Notes on arms that were trained with clearly more or less compute than the reference arm."""
    means = {arm.name: spent.mean for arm in arms if arm.kind == "method" and (spent := arm.over_seeds(CALLS))}
    expected = means.get(reference)
    if expected is None:
        return []
    return [
        f"{name} was trained with {calls / expected:.2f} times the velocity evaluations of {reference}."
        for name, calls in means.items()
        if abs(calls / expected - 1) > EQUAL
    ]
