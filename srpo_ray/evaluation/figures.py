"""The report's figures as inline SVG: Pareto plot, curves over updates, slices through each parameter."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from srpo_ray.evaluation import svg
from srpo_ray.evaluation.results import (
    SweepReport,
    TrialRow,
    metric_names,
    pareto_front,
    varied_params,
)
from srpo_ray.evaluation.table import number, param_text, param_titles, signed

CONTROL_WORDS = "algorithm.control_words"
_NUM_COLORS = 8
_MOST_CURVES = 9
_LOG_RATIO = 8.0
"""Numeric parameters that span more than this factor are drawn on a logarithmic axis."""
_CHARACTER_WIDTH = 6.6


def word_colors(report: SweepReport) -> dict[str, str]:
    """Name of each set of control words -> the CSS class of its colour; empty where no trial names one."""
    words = [str(row.params[CONTROL_WORDS]) for row in report.rows if row.params.get(CONTROL_WORDS) is not None]
    return {word: f"c{index % _NUM_COLORS}" for index, word in enumerate(dict.fromkeys(words))}


def pareto_figure(report: SweepReport) -> str | None:
    """Training reward gain against the held-out score, trials and ablations; None without two numbers to draw."""
    points = [(gain, value, row) for row in report.rows if (point := _gain_and_value(report, row)) for gain, value in [point]]
    points = [point for point in points if point[2].kind in ("trial", "ablation")]
    if not points:
        return None
    base = report.baseline(report.objective)
    x = svg.axis_over([0.0, *(gain for gain, _, _ in points)], 64, 700)
    y = svg.axis_over([value for _, value, _ in points] + [base] * (base is not None), 380, 20)
    parts = svg.grid(x, y)
    if base is not None:
        parts += _base_cross(report, x, y, base)
    parts += _front_line(report, points, x, y)
    colors = word_colors(report)
    taken = [(x(gain) - 7, y(value) - 7, x(gain) + 7, y(value) + 7) for gain, value, _ in points]
    for gain, value, row in points:
        css = "best" if row is report.best_row else "faint" if row.kind == "ablation" else ""
        color = colors.get(str(row.params.get(CONTROL_WORDS)), "c0")
        tip = f"{row.name}: {row.label}\nreward gain {signed(gain)}, {report.objective} {number(value)}"
        parts.append(svg.dot(x(gain), y(value), 7 if css == "best" else 5.5, f"{color} {css}", tip))
        parts.append(_label(row.name, x(gain), y(value), taken, x, f"label {css}"))
    parts.append(svg.text(700, 418, f"gain of {report.reward} over the untrained model →", "name", "end"))
    parts.append(svg.text(8, 12, f"{report.objective} {'↑' if report.mode == 'max' else '(lower is better)'}", "name"))
    return svg.drawing(720, 430, parts, "Training reward gain against the held-out score")


def curve_figures(report: SweepReport) -> list[tuple[str, str]]:
    """(metric, drawing) of trials over updates: objective, reward, then truth and other panel metrics."""
    order = ("truth/", "panel/", "reward/", "image/")
    names = metric_names(report)
    first = [name for name in (report.objective, report.reward) if name in names]
    others = [name for prefix in order for name in names if name.startswith(prefix) and name not in first]
    drawings = [(name, _curves(report, name)) for name in first + others]
    return [(name, drawing) for name, drawing in drawings if drawing is not None][:_MOST_CURVES]


def slice_figures(report: SweepReport) -> list[tuple[str, str]]:
    """(parameter, drawing) of the objective against each parameter that differs between trials."""
    paths = varied_params(report)
    titles = param_titles(paths)
    rows = [row for row in report.trials if not row.failed and row.value(report.objective) is not None]
    if len(rows) < 2:
        return []
    return [(titles[path], _slice(report, rows, path)) for path in paths]


def _gain_and_value(report: SweepReport, row: TrialRow) -> tuple[float, float] | None:
    gain, value = report.change(row, report.reward), row.value(report.objective)
    return None if gain is None or value is None or row.failed else (gain, value)


def _base_cross(report: SweepReport, x: svg.Axis, y: svg.Axis, base: float) -> list[str]:
    """The untrained model, and the quarter where reward rose and the objective got worse."""
    edge = y.start if report.mode == "max" else y.end
    top, bottom = sorted((y(base), edge))
    label_y = bottom - 10 if report.mode == "max" else top + 18
    return [
        svg.rectangle(x(0), top, x.end - x(0), bottom - top, "danger"),
        svg.text(x.end - 8, label_y, "reward hacking: reward up, held-out score worse", "danger-text", "end"),
        svg.line(x.start, y(base), x.end, y(base), "base-line"),
        svg.line(x(0), y.start, x(0), y.end, "base-line"),
        svg.dot(x(0), y(base), 6, "base", f"untrained model: {report.objective} {number(base)}"),
        svg.text(x(0) + 10, y(base) - 8, "untrained", "label"),
    ]


def _front_line(
    report: SweepReport, points: Sequence[tuple[float, float, TrialRow]], x: svg.Axis, y: svg.Axis
) -> list[str]:
    sign = 1 if report.mode == "max" else -1
    front = pareto_front([(gain, sign * value) for gain, value, _ in points])
    line = [(x(points[index][0]), y(points[index][1])) for index in front]
    return [svg.polyline(line, "front", "Pareto front: no trial is better in both")] if len(line) > 1 else []


def _label(
    name: str, x: float, y: float, taken: list[tuple[float, float, float, float]], axis: svg.Axis, css: str
) -> str:
    """A point's name at the first of four places beside it where nothing else is."""
    name = name if len(name) <= 24 else name[:23] + "…"
    width = _CHARACTER_WIDTH * len(name)
    places = [(x + 10, y + 4), (x - 10 - width, y + 4), (x - width / 2, y - 12), (x - width / 2, y + 20)]
    boxes = [(left, base - 11, left + width, base + 3) for left, base in places]
    free = [box for box in boxes if _fits(box, axis) and not any(_overlap(box, other) for other in taken)]
    box = (free or boxes)[0]
    taken.append(box)
    return svg.text(box[0], box[3] - 3, name, css)


def _fits(box: tuple[float, float, float, float], axis: svg.Axis) -> bool:
    return box[0] >= axis.start and box[2] <= axis.end + 16


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _curves(report: SweepReport, metric: str) -> str | None:
    """The metric over updates: trials light, the best strong, the untrained model dashed."""
    curves = [(row, _pieces(row, metric)) for row in report.trials]
    points = [point for _, pieces in curves for piece in pieces for point in piece]
    if len({step for step, _ in points}) < 2:
        return None
    base, best = report.baseline(metric), report.best_row
    x = svg.axis_over([step for step, _ in points], 52, 314, room=0.02)
    y = svg.axis_over([value for _, value in points] + [base] * (base is not None), 172, 12)
    parts = svg.grid(x, y)
    if base is not None:
        parts.append(svg.line(x.start, y(base), x.end, y(base), "base-line"))
    for row, pieces in sorted(curves, key=lambda curve: curve[0] is best):
        css = "curve best" if row is best else "curve"
        for piece in pieces:
            pixels = [(x(step), y(value)) for step, value in piece]
            parts.append(svg.polyline(pixels, css, f"{row.name}: {row.label}"))
            if row is best or len(piece) == 1:
                parts.append(svg.dot(*pixels[-1], 3, f"end {css}", f"{row.name}: {number(piece[-1][1])}"))
    return svg.drawing(330, 196, parts, f"{metric} over updates")


def _pieces(row: TrialRow, metric: str) -> list[list[svg.Point]]:
    """(step, value) in runs without a gap; a missing, NaN or infinite value is a gap."""
    pieces: list[list[svg.Point]] = [[]]
    for evaluation in row.history:
        step, value = evaluation.get("step"), evaluation.get(metric)
        if step is not None and value is not None and math.isfinite(value):
            pieces[-1].append((step, value))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _slice(report: SweepReport, rows: Sequence[TrialRow], path: str) -> str:
    values = [row.params.get(path) for row in rows]
    scores = [score for row in rows if (score := row.value(report.objective)) is not None]
    base = report.baseline(report.objective)
    y = svg.axis_over(scores + [base] * (base is not None), 172, 12)
    x, places, ticks = _slice_axis(values)
    parts = svg.grid(x, y, ticks)
    if base is not None:
        parts.append(svg.line(x.start, y(base), x.end, y(base), "base-line"))
    if ticks is not None:
        parts += _group_means(places, scores, x, y)
    colors = word_colors(report)
    for row, place, score in zip(rows, places, scores, strict=True):
        color = colors.get(str(row.params.get(CONTROL_WORDS)), "c0")
        css = "best" if row is report.best_row else ""
        tip = f"{row.name}: {param_text(row.params.get(path))} → {number(score)}"
        parts.append(svg.dot(x(place), y(score), 6 if css else 4.5, f"{color} {css}", tip))
    return svg.drawing(330, 196, parts, f"{report.objective} against {path}")


def _slice_axis(values: Sequence[Any]) -> tuple[svg.Axis, list[float], list[tuple[float, str]] | None]:
    """An axis for a parameter's values, their places on it and, for names, the labelled ticks."""
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) == len(values):
        log = min(numbers) > 0 and max(numbers) / min(numbers) > _LOG_RATIO
        return svg.axis_over(numbers, 52, 314, log=log), numbers, None
    names = [param_text(value) for value in values]
    distinct = sorted(set(names), key=lambda name: _sort_key(values[names.index(name)]))
    axis = svg.Axis(-0.5, len(distinct) - 0.5, 52, 314)
    most = max(3, int(262 / len(distinct) / _CHARACTER_WIDTH))
    ticks = [(float(i), name if len(name) <= most else name[: most - 1] + "…") for i, name in enumerate(distinct)]
    return axis, [float(distinct.index(name)) for name in names], ticks


def _sort_key(value: Any) -> tuple[int, Any]:
    if isinstance(value, list | tuple) and all(isinstance(item, int | float) for item in value):
        return (0, tuple(value))
    return (1, param_text(value))


def _group_means(places: Sequence[float], scores: Sequence[float], x: svg.Axis, y: svg.Axis) -> list[str]:
    groups: Mapping[float, list[float]] = {place: [] for place in places}
    for place, score in zip(places, scores, strict=True):
        groups[place].append(score)
    means = {place: sum(group) / len(group) for place, group in groups.items()}
    return [svg.line(x(place) - 14, y(mean), x(place) + 14, y(mean), "mean") for place, mean in means.items()]
