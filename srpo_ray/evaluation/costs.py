"""Costs of a score: first passages of runs, and the cost of the same scores for several arms."""

from srpo_ray.evaluation.crossed import Estimate, mean_over
from srpo_ray.evaluation.results import CALLS, Arm, Results, TrialRow, finite

TARGET_SHARES = (0.25, 0.5, 0.75, 1.0)
"""Shares of the reference arm's gain at which the costs of all methods are compared."""


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


def arm_cost(results: Results, arm: Arm, cost: str = CALLS, target: float | None = None) -> Estimate | None:
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
    reached = [[value] for value in costs if value is not None]
    return mean_over(reached) if reached and len(reached) == len(costs) else None


def common_targets(results: Results) -> list[float]:
    """Scores whose cost is compared for all methods: shares of the reference arm's mean gain; empty without one."""
    reached, base = results.arm(results.reference).over_seeds(results.objective), results.baseline(results.objective)
    if reached is None or base is None:
        return []
    return [base + share * (reached.mean - base) for share in TARGET_SHARES]
