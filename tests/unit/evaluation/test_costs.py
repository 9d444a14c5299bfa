"""Costs of a score: first passages and ratios, against numbers worked out by hand."""

import math
from dataclasses import replace

import pytest

from srpo_ray.evaluation.costs import Bound, Passage, RunPassage, arm_passage, cost_ratio, run_passage
from srpo_ray.evaluation.results import Arm, Results
from tests.unit.evaluation.test_comparison import HELD_OUT, run
from tests.unit.evaluation.test_comparison import report as report


@pytest.mark.parametrize(
    ("scores", "target", "mode", "cost", "bound"),
    [
        ([0.5, 0.6, 0.7], 0.675, "max", 175.0, ""),
        ([0.5, 0.6, 0.7], 0.7, "max", 200.0, ""),
        ([0.5, 0.6, 0.7], 0.6, "max", 100.0, ""),
        ([0.5, 0.4, 0.6], 0.55, "max", 175.0, ""),
        ([0.5, 0.5, 0.3], 0.4, "min", 150.0, ""),
        ([0.5, 0.6, 0.7], 0.55, "max", 100.0, "<"),
        ([0.5, 0.3], 0.4, "min", 100.0, "<"),
        ([0.5, 0.6, 0.7], 0.4, "max", 100.0, "<"),
        ([0.5, 0.6, 0.7], 0.71, "max", 200.0, ">"),
    ],
)
def test_first_passage_is_interpolated_but_in_the_first_interval(
    scores: list[float], target: float, mode: str, cost: float, bound: Bound
) -> None:
    """Evaluations at 0, 100, 200 calls."""
    found = run_passage(run("x", 1, scores), HELD_OUT, target, mode)
    assert found is not None
    assert (found.cost, found.bound) == (pytest.approx(cost), bound)


def test_first_passage_skips_evaluations_without_a_number() -> None:
    row = run("x", 1, [0.5, 0.6, 0.7])
    holed = replace(row, history=[row.history[0], {"update": 5}, *row.history[1:]])
    found = run_passage(holed, HELD_OUT, 0.65, "max")
    assert found is not None
    assert (found.cost, found.bound) == (pytest.approx(150.0), "")
    assert run_passage(replace(row, history=row.history[:1]), HELD_OUT, 0.4, "max") is None


def test_a_run_that_was_not_evaluated_before_training_has_an_upper_bound_only() -> None:
    row = run("x", 1, [0.5, 0.6, 0.7])
    assert run_passage(replace(row, history=row.history[1:]), HELD_OUT, 0.55, "max") == RunPassage(100.0, "<")


def test_a_run_that_never_arrives_makes_the_arms_cost_a_lower_bound(report: Results) -> None:
    srpo = report.arm("SRPO")
    reached = arm_passage(report, srpo, 0.69)
    assert reached is not None
    # 0.70, 0.72 and 0.68
    assert (reached.bound, reached.limit, reached.cost, reached.num_reached) == (">", 200.0, None, 2)
    all_reached = arm_passage(report, srpo, 0.65)
    assert all_reached is not None
    assert all_reached.cost is not None
    assert all_reached.cost.mean == pytest.approx((150 + 1000 / 12 * 0.5 + 100 + 162.5) / 3)


def test_a_run_that_arrives_at_its_first_evaluation_makes_the_arms_cost_an_upper_bound() -> None:
    found = Passage({1: RunPassage(100.0, "<"), 2: RunPassage(160.0, "")})
    assert (found.bound, found.limit, found.cost) == ("<", 130.0, None)


def test_an_arm_without_ended_runs_has_no_passage(report: Results) -> None:
    assert arm_passage(report, Arm("none", "method", {}, []), 0.6) is None


def exact(*costs: float) -> Passage:
    return Passage({seed: RunPassage(cost, "") for seed, cost in enumerate(costs)})


def test_ratio_is_the_geometric_mean_over_seeds_with_the_interval_of_the_logarithms() -> None:
    """Ratios 2, 2 e^0.1 and 2 e^-0.1 by seed: 4.303 x 0.1 / sqrt(3) = 0.248."""
    found = cost_ratio(exact(200.0, 400 * math.exp(0.1), 600 * math.exp(-0.1)), exact(100.0, 200.0, 300.0))
    assert found is not None
    assert found.ratio == pytest.approx(2.0)
    assert found.low == pytest.approx(2 * math.exp(-0.2484), rel=1e-3)
    assert found.high == pytest.approx(2 * math.exp(0.2484), rel=1e-3)
    single = cost_ratio(exact(200.0), exact(100.0))
    assert single is not None
    assert (single.ratio, single.low, single.high) == (pytest.approx(2.0), None, None)


BELOW, ABOVE = Passage({0: RunPassage(50.0, "<")}), Passage({0: RunPassage(400.0, ">")})


@pytest.mark.parametrize(
    ("ours", "theirs", "ratio"),
    [
        (ABOVE, exact(100.0), (4.0, ">")),
        (BELOW, exact(100.0), (0.5, "<")),
        (exact(100.0), ABOVE, (0.25, "<")),
        (exact(100.0), BELOW, (2.0, ">")),
        (ABOVE, BELOW, (8.0, ">")),
        (BELOW, ABOVE, (0.125, "<")),
        (ABOVE, ABOVE, None),
        (BELOW, BELOW, None),
        (None, exact(100.0), None),
    ],
)
def test_ratio_has_the_side_of_what_is_known(
    ours: Passage | None, theirs: Passage, ratio: tuple[float, str] | None
) -> None:
    found = cost_ratio(ours, theirs)
    assert (found and (found.ratio, found.bound)) == (ratio and (pytest.approx(ratio[0]), ratio[1]))
