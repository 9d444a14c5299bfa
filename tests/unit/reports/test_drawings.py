"""Charts as SVG: marks stand where their values put them."""

from itertools import pairwise
from xml.etree import ElementTree

import pytest

from srpo_ray.reports.charts import Chart, Curves, Dot, HeatMap, Interval, Intervals, Line, Scatter
from srpo_ray.reports.drawings import draw

EVIL = "<script>&\"'"


def parts(chart: Chart, tag: str, css: str = "") -> list[ElementTree.Element]:
    found = ElementTree.fromstring(draw(chart)).iter(tag)
    return [each for each in found if css in each.get("class", "").split() or not css]


def test_shares_stand_between_0_and_100_percent() -> None:
    rows = [Interval("a", 0.75, 0.5, 1.0, "75%"), Interval("b", 0.0, 0.0, 0.25, "0%", color=None)]
    chart = Intervals("", "wins", rows, mark=0.5, share=True)
    ticks = {each.text: float(each.get("x", "")) for each in parts(chart, "text", "tick")}
    zero, whole = ticks["0%"], ticks["100%"]
    first, second = parts(chart, "circle")
    assert float(first.get("cx", "")) == pytest.approx(zero + 0.75 * (whole - zero), abs=0.1)
    assert float(second.get("cx", "")) == pytest.approx(zero, abs=0.1)
    assert (first.get("class"), second.get("class")) == ("c0", "hollow")
    line = parts(chart, "line", "interval")[0]
    assert [float(line.get(end, "")) for end in ("x1", "x2")] == pytest.approx([ticks["50%"], whole], abs=0.1)
    assert float(parts(chart, "line", "base-line")[0].get("x1", "")) == pytest.approx(ticks["50%"], abs=0.1)


def test_differences_and_zero_share_one_axis() -> None:
    chart = Intervals("", "effects", [Interval("a", -0.2, -0.3, -0.1, ""), Interval("b", 0.4, 0.3, 0.5, "")])
    zero = float(parts(chart, "line", "base-line")[0].get("x1", ""))
    left, right = (float(each.get("cx", "")) for each in parts(chart, "circle"))
    assert (right - zero) / (zero - left) == pytest.approx(2, abs=0.02)


def test_long_names_of_differences_leave_room_for_the_axis() -> None:
    chart = Intervals("", "effects", [Interval("an ablation with a long name " * 5, -0.2, -0.3, -0.1, "")])
    assert float(ElementTree.fromstring(draw(chart)).get("viewBox", "").split()[2]) < 600


def test_a_gap_breaks_a_curve_and_a_lone_point_is_a_dot() -> None:
    line = Line("a", [[(0, 1.0), (10, 2.0)], [(30, 1.5)]])
    chart = Curves("m", "m over updates", [line], baseline=1.0)
    assert len(parts(chart, "polyline")) == 2
    assert len(parts(chart, "circle")) == 1
    assert len(parts(chart, "line", "base-line")) == 1


def test_costs_double_in_equal_steps_on_a_logarithmic_axis() -> None:
    line = Line("a", [[(100, 0.0), (200, 1.0), (400, 2.0)]], "strong", color=3, labelled=True, ended=True)
    chart = Curves("m", "cost", [line], log=True, target=1.0, size="medium")
    points = parts(chart, "polyline")[0].get("points", "").split()
    places = [float(point.split(",")[0]) for point in points]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.2)
    assert parts(chart, "polyline")[0].get("class") == "strong c3"
    assert len(parts(chart, "line", "target")) == 1
    assert [each.text for each in parts(chart, "text", "label")] == ["a"]


def test_names_of_curves_that_end_together_stand_below_each_other() -> None:
    lines = [Line(f"arm {index}", [[(1, 0.5), (2, 0.5)]], "strong", color=index, labelled=True) for index in range(4)]
    labels = parts(Curves("m", "m", lines, size="medium"), "text", "label")
    heights = sorted(float(label.get("y", "")) for label in labels)
    assert all(lower - upper >= 13.9 for upper, lower in pairwise(heights))


def test_groups_of_names_have_their_mean() -> None:
    dots = [Dot(0, 1.0, "a", ""), Dot(0, 3.0, "b", ""), Dot(1, 5.0, "c", "")]
    chart = Scatter("", "scores", dots, names=["real", "vivid"], means=True)
    means = [float(line.get("y1", "")) for line in parts(chart, "line", "mean")]
    places = [float(dot.get("cy", "")) for dot in parts(chart, "circle")]
    assert means == pytest.approx([(places[0] + places[1]) / 2, places[2]], abs=0.1)
    assert [each.text for each in parts(chart, "text", "tick")][-2:] == ["real", "vivid"]


def test_correlations_are_stronger_the_farther_from_zero() -> None:
    chart = HeatMap("", "correlations", ["a"], ["x", "y", "z"], [[1.0, -0.5, 0.0]])
    cells = parts(chart, "rect")
    assert [cell.get("class") for cell in cells] == ["c0", "c1", "c0"]
    assert [float(cell.get("fill-opacity", "")) for cell in cells] == pytest.approx([0.85, 0.425, 0.0])


@pytest.mark.parametrize(
    "chart",
    [
        Curves(EVIL, EVIL, [Line(EVIL, [[(0, 1.0)]], hint=EVIL, color=0, labelled=True)], x_title=EVIL),
        Scatter(EVIL, EVIL, [Dot(0, 1.0, EVIL, EVIL, labelled=True)], names=[EVIL], x_title=EVIL, y_title=EVIL),
        Scatter(EVIL, EVIL, [Dot(0, 1.0, EVIL, EVIL)], baseline=0.0, baseline_hint=EVIL, origin=True),
        Intervals(EVIL, EVIL, [Interval(EVIL, 0.0, -1.0, 1.0, EVIL)]),
        HeatMap(EVIL, EVIL, [EVIL], [EVIL], [[0.5]]),
    ],
)
def test_hostile_names_stay_texts(chart: Chart) -> None:
    assert not parts(chart, "script")
    assert "<script" not in draw(chart)
