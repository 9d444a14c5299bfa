"""Side effects at equal gain, of runs whose curves are known in closed form."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from srpo_ray.evaluation.equal_gain import change_at, effect_curve, equal_gain, side_metrics
from srpo_ray.evaluation.results import Arm, Results, TrialRow
from tests.unit.evaluation.test_comparison import HELD_OUT
from tests.unit.evaluation.test_comparison import report as report

SATURATION = "truth/saturation"


def curve(seed: int, gains: list[float], effect: Callable[[float], float]) -> TrialRow:
    """A run that starts at a held-out score of 0.5 and a saturation of 0.8."""
    history = [
        {"update": index, HELD_OUT: 0.5 + gain, SATURATION: 0.8 + effect(gain)} for index, gain in enumerate(gains)
    ]
    return TrialRow(f"run_{seed}", "repeat", "", {}, history, "finished", 1.0, seed)


def arm(name: str, gains: list[float], slope: float, kind: str = "method") -> Arm:
    """Three seeds whose saturation changes by the gain times `slope`, give or take a hundredth of it."""
    rows = [curve(seed, gains, lambda gain, seed=seed: gain * slope * (1 + 0.01 * (seed - 2))) for seed in (1, 2, 3)]
    return Arm(name, kind, {}, rows)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def two_speeds(report: Results) -> Results:
    """ReFL is twice as slow as SRPO and moves saturation by half as much for the same gain."""
    arms = [arm("SRPO", [0.0, 0.1, 0.2, 0.4], -1.0), arm("ReFL", [0.0, 0.05, 0.1, 0.2], -0.5)]
    return replace(report, arms=arms)


def test_arms_are_compared_at_gains_that_all_of_them_reach(two_speeds: Results) -> None:
    found = equal_gain(two_speeds, HELD_OUT, two_speeds.methods)
    assert found is not None
    assert found.gains == pytest.approx([0.1, 0.2])
    top = found.gains[1]
    # At the end of training SRPO has changed saturation by -0.4 and ReFL by -0.1; at equal gain by -0.2 and -0.1.
    assert found.effects["SRPO", top, SATURATION].mean == pytest.approx(-0.2)
    assert found.effects["ReFL", top, SATURATION].mean == pytest.approx(-0.1)
    # Differences by seed of 0.099, 0.1 and 0.101: 4.303 x 0.001 / sqrt(3).
    gap = found.gaps["ReFL", top, SATURATION]
    assert (gap.estimate.mean, gap.estimate.half_width) == (pytest.approx(0.1), pytest.approx(0.00248, rel=0.01))
    assert gap.significant
    assert ("SRPO", top, SATURATION) not in found.gaps


def test_side_effect_is_interpolated_at_the_first_passage_of_the_gain(report: Results) -> None:
    row = curve(1, [0.0, 0.2, 0.1, 0.4], lambda gain: -(gain**2))
    # Half of the way to the evaluation with a gain of 0.2; between 0.1, the second time, and 0.4.
    assert change_at(report, row, HELD_OUT, SATURATION, 0.1) == pytest.approx(-0.02)
    assert change_at(report, row, HELD_OUT, SATURATION, 0.25) == pytest.approx(-0.01 - 0.5 * 0.15)
    assert change_at(report, row, HELD_OUT, SATURATION, 0.4) == pytest.approx(-0.16)
    assert change_at(report, row, HELD_OUT, SATURATION, 0.5) is None
    assert change_at(report, row, HELD_OUT, SATURATION, -0.1) is None
    assert change_at(report, row, HELD_OUT, "no/such", 0.1) is None


def test_an_arm_that_gains_too_little_is_left_out_and_named(two_speeds: Results) -> None:
    weak = replace(two_speeds, arms=[*two_speeds.arms, arm("DanceGRPO", [0.0, 0.01, 0.02, 0.02], 1.0)])
    found = equal_gain(weak, HELD_OUT, weak.methods)
    assert found is not None
    assert (found.left_out, found.gains) == (["DanceGRPO"], pytest.approx([0.1, 0.2]))
    assert equal_gain(weak, HELD_OUT, [weak.arm("SRPO"), weak.arm("DanceGRPO")]) is None
    assert equal_gain(two_speeds, "no/such", two_speeds.methods) is None


def test_a_metric_that_the_reference_lowers_gains_by_falling(two_speeds: Results) -> None:
    methods = [two_speeds.arm("SRPO"), arm("ReFL", [0.0, 0.05, 0.1, 0.2], -0.8)]
    found = equal_gain(replace(two_speeds, arms=methods), SATURATION, methods)
    assert found is not None
    # SRPO's seeds reach -0.396 to -0.404, ReFL's -0.1584 to -0.1616.
    assert (found.direction, found.gains) == (-1.0, pytest.approx([0.0792, 0.1584]))
    assert found.effects["ReFL", found.gains[1], HELD_OUT].mean == pytest.approx(0.198, rel=1e-3)
    assert found.effects["SRPO", found.gains[1], HELD_OUT].mean == pytest.approx(0.1584, rel=1e-3)


def test_where_lower_is_better_a_fall_of_the_objective_is_the_gain(report: Results) -> None:
    arms = [arm("SRPO", [0.0, -0.1, -0.2], 1.0), arm("ReFL", [0.0, -0.1, -0.1], 1.0)]
    lower = replace(report, arms=arms, mode="min")
    found = equal_gain(lower, HELD_OUT, lower.methods)
    assert found is not None
    assert found.gains[1] == pytest.approx(0.1)


def test_curve_is_the_mean_over_seeds_up_to_the_gain_that_all_reach(two_speeds: Results) -> None:
    points = effect_curve(two_speeds, two_speeds.arm("ReFL"), HELD_OUT, SATURATION)
    assert points[0] == (0.0, 0.0)
    assert points[-1] == (pytest.approx(0.2), pytest.approx(-0.1))
    assert all(change == pytest.approx(-0.5 * gain) for gain, change in points)


def test_side_effects_are_scores_truths_and_diversity_without_the_gains_own_metric(report: Results) -> None:
    assert side_metrics(report, HELD_OUT) == ["truth/content_accuracy", "truth/detail", "image/diversity"]
    assert side_metrics(report, "truth/detail") == [HELD_OUT, "truth/content_accuracy", "image/diversity"]
