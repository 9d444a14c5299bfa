"""The plot that separates learning from reward hacking: gain of the trained reward against the held-out score."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from srpo_ray.evaluation.numbers import number, signed
from srpo_ray.evaluation.results import TRAINED_GAIN, SweepReport, TrialRow
from srpo_ray.reports import svg

_CONTROL_WORDS = "algorithm.control_words"
_NUM_COLORS = 8
_CHARACTER_WIDTH, _BOLD_CHARACTER_WIDTH = 6.6, 7.6
_LONGEST_LABEL = 24

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True)
class _Spot:
    """A run in the plot."""

    row: TrialRow
    gain: float
    value: float


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other point beats in both coordinates, in order of the first one.

    A point is beaten by one that is at least as large in both coordinates and larger in one.
    """
    front: list[int] = []
    highest = -math.inf
    for index in sorted(range(len(points)), key=lambda index: points[index], reverse=True):
        x, y = points[index]
        if y > highest or (front and points[front[-1]] == (x, y)):
            front.append(index)
            highest = y
    return front[::-1]


def word_colors(report: SweepReport) -> dict[str, str]:
    """Name of each set of control words -> the CSS class of its colour; empty where no run names one."""
    words = [str(row.params[_CONTROL_WORDS]) for row in report.rows if _CONTROL_WORDS in row.params]
    return {word: f"c{index % _NUM_COLORS}" for index, word in enumerate(dict.fromkeys(words))}


def color_of(row: TrialRow, colors: Mapping[str, str]) -> str:
    """CSS class of a row's colour; one for all where control words are unknown."""
    return colors.get(str(row.params.get(_CONTROL_WORDS)), "c0")


def pareto_figure(report: SweepReport) -> str | None:
    """Trials, ablations, the untrained model and the trials' front; None if no run has both numbers."""
    spots = _spots(report)
    base = report.baseline(report.objective)
    if not spots or base is None:
        return None
    x = svg.axis_over([0.0, *(spot.gain for spot in spots)], 64, 700)
    y = svg.axis_over([base, *(spot.value for spot in spots)], 380, 22)
    taken = [_around(x(spot.gain), y(spot.value), 7) for spot in spots]
    parts = svg.grid(x, y) + _front_line(report, spots, x, y) + _untrained(report, x, y, base, taken)
    colors = word_colors(report)
    for spot in spots:
        css = "best" if spot.row is report.best_row else "faint" if spot.row.kind == "ablation" else ""
        css += " alarmed" if spot.row.alarms else ""
        tip = f"{spot.row.name}: {spot.row.label}\nreward {signed(spot.gain)}, held-out {number(spot.value)}"
        center = (x(spot.gain), y(spot.value))
        radius = 7 if spot.row is report.best_row else 5.5
        parts.append(svg.dot(*center, radius, f"{color_of(spot.row, colors)} {css}", tip))
        parts.append(_label(spot.row.name, center, taken, x, f"label {css}"))
    better = "higher is better" if report.mode == "max" else "lower is better"
    parts.append(svg.text(8, 12, f"{report.objective} ({better})", "name"))
    parts.append(svg.text(700, 418, f"{_gain_title(report.reward)} →", "name", "end"))
    return svg.drawing(720, 430, parts, "Gain of the trained reward against the held-out score")


def _gain_title(reward: str) -> str:
    if reward == TRAINED_GAIN:
        return "rise of each run's own trained reward, in standard deviations"
    return f"gain of {reward} over the untrained model"


def _spots(report: SweepReport) -> list[_Spot]:
    spots = []
    for row in report.rows:
        gain, value = report.change(row, report.reward), row.value(report.objective)
        if row.kind in ("trial", "ablation") and not row.failed and gain is not None and value is not None:
            spots.append(_Spot(row, gain, value))
    return spots


def _untrained(report: SweepReport, x: svg.Axis, y: svg.Axis, base: float, taken: list[Box]) -> list[str]:
    """The untrained model, and the quarter where the reward rose and the held-out score got worse."""
    edge = y.start if report.mode == "max" else y.end
    top, bottom = sorted((y(base), edge))
    note_y = top + 16 if report.mode == "max" else bottom - 8
    taken += [_around(x(0), y(base), 7), (x.end - 110, note_y - 12, x.end, note_y + 4)]
    return [
        svg.rectangle(x(0), top, x.end - x(0), bottom - top, "danger"),
        svg.text(x.end - 6, note_y, "reward hacking", "danger-text", "end"),
        svg.line(x.start, y(base), x.end, y(base), "base-line"),
        svg.line(x(0), y.start, x(0), y.end, "base-line"),
        svg.dot(x(0), y(base), 6, "base", f"untrained model: {report.objective} {number(base)}"),
        _label("untrained", (x(0), y(base)), taken, x, "label"),
    ]


def _front_line(report: SweepReport, spots: Sequence[_Spot], x: svg.Axis, y: svg.Axis) -> list[str]:
    sign = 1 if report.mode == "max" else -1
    trials = [spot for spot in spots if spot.row.kind == "trial"]
    front = pareto_front([(spot.gain, sign * spot.value) for spot in trials])
    line = [(x(trials[index].gain), y(trials[index].value)) for index in front]
    return [svg.polyline(line, "front", "Pareto front: no trial is better in both")] if len(line) > 1 else []


def _around(x: float, y: float, reach: float) -> Box:
    return (x - reach, y - reach, x + reach, y + reach)


def _label(name: str, center: svg.Point, taken: list[Box], axis: svg.Axis, css: str) -> str:
    """A point's name at the first of the places around it where nothing else is."""
    name = name if len(name) <= _LONGEST_LABEL else name[: _LONGEST_LABEL - 1] + "…"
    width = (_BOLD_CHARACTER_WIDTH if "best" in css else _CHARACTER_WIDTH) * len(name)
    x, y = center
    places = [(x + 12, y + 4), (x - 10 - width, y + 4), (x - width / 2, y - 12), (x - width / 2, y + 20)]
    places += [(x + 8, y - 9), (x - 8 - width, y - 9), (x + 8, y + 17), (x - 8 - width, y + 17)]
    boxes = [(left, base - 11, left + width, base + 3) for left, base in places]
    inside = [box for box in boxes if box[0] >= axis.start and box[2] <= axis.end + 16]
    free = [box for box in inside if not any(_overlap(box, other) for other in taken)]
    box = (free or inside or boxes)[0]
    taken.append(box)
    return svg.text(box[0], box[3] - 3, name, css)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
