"""Costs of a score: first passages of runs and arms, and ratios of the costs of two arms."""

import math
from dataclasses import dataclass
from typing import Literal

from srpo_ray.evaluation.comparison import gain
from srpo_ray.evaluation.crossed import Estimate, difference_by_seed, mean_over
from srpo_ray.evaluation.results import CALLS, Arm, Results, TrialRow, finite

TARGET_SHARES = (0.25, 0.5, 0.75, 0.9)
"""Shares of the reference arm's gain at which the costs of all methods are compared. About half of the reference's
own runs never reach their mean, so the whole gain is no target."""

Bound = Literal["", "<", ">"]


@dataclass(frozen=True)
class RunPassage:
    """First passage of one run: the cost at which it first had a score."""

    cost: float
    bound: Bound
    """Empty: `cost` is interpolated between two evaluations after training began. `<`: the run had the score at its
    first evaluation, whose cost this is, and a straight line from the baseline would be all that is known. `>`: the run
    never had it, and has spent this."""


@dataclass(frozen=True)
class Passage:
    """First passages of an arm's runs."""

    runs: dict[int, RunPassage]
    """Seed -> the run's."""

    @property
    def bound(self) -> Bound:
        """`>` if a run never had the score, else `<` if a run had it at its first evaluation, else empty."""
        bounds = {run.bound for run in self.runs.values()}
        return ">" if ">" in bounds else "<" if "<" in bounds else ""

    @property
    def cost(self) -> Estimate | None:
        """Mean over seeds; None if only a bound is known."""
        return None if self.bound else mean_over([[run.cost] for run in self.runs.values()])

    @property
    def limit(self) -> float:
        """Cost of the bound: for `>` the lowest cost of a run that never arrived, for `<` the largest possible mean."""
        costs = [run.cost for run in self.runs.values() if self.bound != ">" or run.bound == ">"]
        return min(costs) if self.bound == ">" else sum(costs) / len(costs)

    @property
    def num_reached(self) -> int:
        """Number of runs that had the score."""
        return sum(run.bound != ">" for run in self.runs.values())


@dataclass(frozen=True)
class CostRatio:
    """Cost of one arm as a multiple of another's, for the same score."""

    ratio: float
    bound: Bound
    """`<` or `>` where one of the costs is only known to lie on one side."""
    low: float | None = None
    high: float | None = None
    """Ends of the 95% interval over seeds, from the logarithms of the costs; None for a bound or a single seed."""


def run_passage(row: TrialRow, metric: str, target: float, mode: str, cost: str = CALLS) -> RunPassage | None:
    """Find the cost at which a run first had a score.

    Args:
        row: The run, with `cost` in its history.
        metric: The score.
        target: Its value to reach.
        mode: `max` if higher is better, `min` if lower is.
        cost: Metric of the cost.

    Returns:
        None if the run has no evaluation after training began.
    """
    sign = 1.0 if mode == "max" else -1.0
    points = [(finite(each.get(cost)), finite(each.get(metric))) for each in row.history]
    leads = [(spent, sign * (value - target)) for spent, value in points if spent is not None and value is not None]
    first = next((index for index, (spent, _) in enumerate(leads) if spent > 0), None)
    if first is None:
        return None
    reached = next((index for index, (_, lead) in enumerate(leads) if lead >= 0), None)
    if reached is None:
        return RunPassage(leads[-1][0], ">")
    if reached < first or (reached == first and leads[first][1] > 0):
        return RunPassage(leads[first][0], "<")
    (spent, lead), (before, behind) = leads[reached], leads[reached - 1]
    return RunPassage(spent if lead == 0 else before - behind / (lead - behind) * (spent - before), "")


def arm_passage(results: Results, arm: Arm, target: float, cost: str = CALLS) -> Passage | None:
    """Find the first passages of an arm's ended runs; None if one has no evaluation after training began.

    Args:
        results: The results.
        arm: Whose runs.
        target: The score.
        cost: Metric of the cost.
    """
    found = {row.seed: run_passage(row, results.objective, target, results.mode, cost) for row in arm.ended}
    runs = {seed: passage for seed, passage in found.items() if passage is not None}
    return Passage(runs) if runs and len(runs) == len(found) else None


def cost_ratio(passage: Passage | None, reference: Passage | None) -> CostRatio | None:
    """Compare the costs of two arms for the same score.

    Args:
        passage: First passages of one arm.
        reference: First passages of the arm whose cost is the unit.

    Returns:
        None where nothing is known: an arm without passages, or two bounds that do not bound the ratio.
    """
    if passage is None or reference is None:
        return None
    if not passage.bound and not reference.bound:
        return _exact_ratio(passage, reference)
    opposite: dict[Bound, Bound] = {"": "", "<": ">", ">": "<"}
    sides: set[Bound] = {passage.bound, opposite[reference.bound]}
    sides.discard("")
    return CostRatio(_center(passage) / _center(reference), sides.pop()) if len(sides) == 1 else None


def _center(passage: Passage) -> float:
    """The bound, or the geometric mean over seeds."""
    logs = [math.log(run.cost) for run in passage.runs.values() if run.cost > 0]
    return passage.limit if passage.bound else math.exp(sum(logs) / len(logs))


def _exact_ratio(passage: Passage, reference: Passage) -> CostRatio | None:
    ours, theirs = ({seed: [math.log(run.cost)] for seed, run in each.runs.items()} for each in (passage, reference))
    found = difference_by_seed(ours, theirs)
    if found is None:
        return None
    half = found.half_width
    ends = (None, None) if half is None else (math.exp(found.mean - half), math.exp(found.mean + half))
    return CostRatio(math.exp(found.mean), "", *ends)


def common_targets(results: Results) -> list[float]:
    """Scores whose cost is compared for all methods: shares of the reference arm's gain; empty without a gain."""
    return [target for share in TARGET_SHARES if (target := results.target_at(share)) is not None]


def is_noise(results: Results, target: float) -> bool:
    """True if a score lies as near to the baseline as the reference arm's gain is uncertain (95% interval)."""
    base = results.baseline(results.objective)
    risen = gain(results, results.arm(results.reference).ended, results.objective)
    return base is None or risen is None or risen.half_width is None or abs(target - base) <= risen.half_width
