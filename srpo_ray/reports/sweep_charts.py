"""Small multiples for the report, as inline SVG: curves over updates, slices through each parameter."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from srpo_ray.evaluation.numbers import number, param_text, param_titles
from srpo_ray.evaluation.results import (
    OWN_WORDS,
    TRAINED_GAIN,
    SweepReport,
    TrialRow,
    alarmed,
    metric_names,
    shared_step,
    varied_params,
)
from srpo_ray.reports import svg
from srpo_ray.reports.pareto import color_of, word_colors

_MOST_CURVES = 9
_LOG_RATIO = 8.0
"""Numeric parameters that span more than this factor are drawn on a logarithmic axis."""
_CHARACTER_WIDTH = 6.6


def curve_figures(report: SweepReport) -> list[tuple[str, str]]:
    """(metric, drawing) of trials over updates: objective, reward, then truth and other panel metrics."""
    order = ("truth/", "panel/", "reward/", "image/")
    names = metric_names(report)
    first = [name for name in (report.objective, report.reward) if name in names]
    # Scores for a run's own control words have another zero in every run, so they share no axis; their gain does.
    skipped = [*first, OWN_WORDS] if report.reward == TRAINED_GAIN else first
    others = [name for prefix in order for name in names if name.startswith(prefix) and name not in skipped]
    drawings = [(name, _curves(report, name)) for name in first + others]
    return [(name, drawing) for name, drawing in drawings if drawing is not None][:_MOST_CURVES]


def slice_figures(report: SweepReport) -> list[tuple[str, str]]:
    """(parameter, drawing) of the objective against each parameter that differs between trials."""
    paths = varied_params(report)
    titles = param_titles(paths)
    scored = comparable_scores(report)
    return [(titles[path], _slice(report, scored, path)) for path in paths] if len(scored) > 1 else []


def comparable_scores(report: SweepReport) -> list[tuple[TrialRow, float]]:
    """Trials and their objective after as many updates, the most that all share; without failed trials."""
    shared = shared_step(report)
    rows = [row for row in report.trials if not row.failed]
    return [(row, score) for row in rows if (score := row.value_at(report.objective, shared)) is not None]


def _curves(report: SweepReport, metric: str) -> str | None:
    """The metric over updates: trials light, the best strong, the untrained model dashed; None if it never moved."""
    curves = [(row, _pieces(row, metric)) for row in report.trials]
    points = [point for _, pieces in curves for piece in pieces for point in piece]
    if len({step for step, _ in points}) < 2 or len({value for _, value in points}) < 2:
        return None
    base, best = report.baseline(metric), report.best_row
    x = svg.axis_over([step for step, _ in points], 52, 314, room=0.02)
    y = svg.axis_over([value for _, value in points] + ([] if base is None else [base]), 172, 12)
    parts = svg.grid(x, y)
    if base is not None:
        parts.append(svg.line(x.start, y(base), x.end, y(base), "base-line"))
    warned = alarmed(report)
    for row, pieces in sorted(curves, key=lambda curve: curve[0] is best):
        css = "curve best" if row is best else "curve alarmed" if row in warned else "curve"
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


def _slice(report: SweepReport, scored: Sequence[tuple[TrialRow, float]], path: str) -> str:
    scores = [score for _, score in scored]
    base = report.baseline(report.objective)
    y = svg.axis_over(scores + ([] if base is None else [base]), 172, 12)
    x, places, ticks = _slice_axis([row.params.get(path) for row, _ in scored])
    parts = svg.grid(x, y, ticks)
    if base is not None:
        parts.append(svg.line(x.start, y(base), x.end, y(base), "base-line"))
    if ticks is not None:
        parts += _group_means(places, scores, x, y)
    colors = word_colors(report)
    for (row, score), place in zip(scored, places, strict=True):
        color = color_of(row, colors)
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
    labels = [name if len(name) <= most else name[: most - 1] + "…" for name in distinct]
    ticks = [(float(index), label) for index, label in enumerate(labels)]
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
