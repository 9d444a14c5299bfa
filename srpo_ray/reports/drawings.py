"""Charts drawn as inline SVG."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from statistics import mean

from srpo_ray.reports import labels, svg
from srpo_ray.reports.charts import Chart, Curves, Dot, HeatMap, Interval, Intervals, Line, Point, Scatter

NUM_COLORS = 8
_ROW_HEIGHT = 25.0
_CHARACTER = 6.7
"""Width of a character of a label, in pixels."""
_CELL_WIDTH, _CELL_HEIGHT = 46.0, 26.0

# Width and height, left and right end of the horizontal axis, lower and upper end of the vertical one.
_SIZES = {
    "small": (330, 196, 52, 314, 172, 12),
    "medium": (550, 322, 56, 372, 280, 14),
    "wide": (720, 430, 64, 700, 380, 22),
}


def draw(chart: Chart) -> str:
    """The chart as the text of an SVG element; colours are CSS classes."""
    match chart:
        case Curves():
            return _curves(chart)
        case Scatter():
            return _scatter(chart)
        case Intervals():
            return _intervals(chart)
        case HeatMap():
            return _heat_map(chart)


def color_class(color: int) -> str:
    """CSS class of a colour by its number."""
    return f"c{color % NUM_COLORS}"


def _curves(chart: Curves) -> str:
    points = [point for line in chart.lines for piece in line.pieces for point in piece]
    x, y, parts = _plane(chart, [point[0] for point in points], [point[1] for point in points], room=0.02)
    if chart.target is not None:
        parts.append(svg.line(x.start, y(chart.target), x.end, y(chart.target), "target"))
    ends: list[tuple[float, float, str]] = []
    for line in chart.lines:
        pieces = [[(x(point[0]), y(point[1])) for point in piece] for piece in line.pieces]
        css = f"{line.style} {color_class(line.color)}" if line.color is not None else f"curve {line.style}".strip()
        parts += [svg.polyline(pixels, css, line.hint) for pixels in pieces]
        parts += _ends(line, pieces, css)
        if line.labelled and pieces:
            ends.append((*pieces[-1][-1], line.name))
    return _finished(chart, x, [*parts, *labels.at_ends(ends)])


def _ends(line: Line, pieces: Sequence[Sequence[Point]], css: str) -> list[str]:
    """A dot at the curve's end, and at any piece of one point, which no line shows."""
    css = color_class(line.color) if line.color is not None else f"end {css}"
    shown = [index for index, pixels in enumerate(pieces) if line.ended or len(pixels) == 1]
    return [svg.dot(*pieces[index][-1], 3, css, line.hint or line.name) for index in shown]


def _scatter(chart: Scatter) -> str:
    marks = [0.0] * chart.origin
    x, y, parts = _plane(chart, [*marks, *(dot.x for dot in chart.dots)], [dot.y for dot in chart.dots], room=0.08)
    if chart.origin:
        parts.append(svg.line(x(0), y.start, x(0), y.end, "base-line"))
    taken = [labels.around(x(dot.x), y(dot.y), 7) for dot in chart.dots if "seed" not in dot.style]
    if chart.baseline is not None and chart.baseline_hint:
        parts += _baseline_point(chart, chart.baseline, x, y, taken)
    if len(chart.front) > 1:
        front = [(x(point[0]), y(point[1])) for point in chart.front]
        parts.append(svg.polyline(front, "front", "Pareto front: no trial is better in both"))
    if chart.means:
        parts += _means(chart.dots, x, y)
    parts += [svg.dot(x(dot.x), y(dot.y), _radius(dot, chart.size), _dot_class(dot), dot.hint) for dot in chart.dots]
    ends = (x.start, _SIZES[chart.size][0] - 4.0)
    for dot in chart.dots:
        if dot.labelled:
            parts.append(labels.beside(dot.name, (x(dot.x), y(dot.y)), taken, ends, f"label {dot.style}".strip()))
    return _finished(chart, x, parts)


def _radius(dot: Dot, size: str) -> float:
    plain, best = {"small": (4.5, 6.0), "medium": (6.5, 7.0)}.get(size, (5.5, 7.0))
    return 3.0 if "seed" in dot.style else best if "best" in dot.style else plain


def _dot_class(dot: Dot) -> str:
    return f"{color_class(dot.color)} {dot.style.replace('seed', 'faint')}".strip()


def _baseline_point(chart: Scatter, baseline: float, x: svg.Axis, y: svg.Axis, taken: list[labels.Box]) -> list[str]:
    """The baseline at a gain of zero, and the quarter where the reward rose and the held-out score got worse."""
    edge = y.end if chart.worse == "high" else y.start
    top, bottom = sorted((y(baseline), edge))
    note = bottom - 8 if chart.worse == "high" else top + 16
    taken += [labels.around(x(0), y(baseline), 7), (x.end - 110, note - 12, x.end, note + 4)]
    return [
        svg.rectangle(x(0), top, x.end - x(0), bottom - top, "danger"),
        svg.text(x.end - 6, note, "reward hacking", "danger-text", "end"),
        svg.dot(x(0), y(baseline), 6, "base", chart.baseline_hint),
        labels.beside("baseline", (x(0), y(baseline)), taken, (x.start, x.end), "label"),
    ]


def _means(dots: Sequence[Dot], x: svg.Axis, y: svg.Axis) -> list[str]:
    ordered = sorted(dots, key=lambda dot: dot.x)
    groups: Mapping[float, list[Dot]] = {place: list(group) for place, group in groupby(ordered, lambda dot: dot.x)}
    means = {place: mean(dot.y for dot in group) for place, group in groups.items()}
    return [svg.line(x(place) - 14, y(value), x(place) + 14, y(value), "mean") for place, value in means.items()]


def _plane(
    chart: Curves | Scatter, xs: Sequence[float], ys: Sequence[float], room: float
) -> tuple[svg.Axis, svg.Axis, list[str]]:
    """Both axes over all points and the baseline, and their grid with the baseline's line."""
    _, _, left, right, bottom, top = _SIZES[chart.size]
    base = [] if chart.baseline is None else [chart.baseline]
    y = svg.axis_over([*base, *ys], bottom, top)
    names = chart.names if isinstance(chart, Scatter) else ()
    if names:
        x = svg.Axis(-0.5, len(names) - 0.5, left, right)
        parts = svg.grid(x, y, _name_ticks(names, right - left))
    else:
        x = svg.axis_over(xs, left, right, log=chart.log, room=room)
        parts = svg.grid(x, y)
    return x, y, parts + [svg.line(x.start, y(value), x.end, y(value), "base-line") for value in base]


def _name_ticks(names: Sequence[str], width: float) -> list[tuple[float, str]]:
    most = max(3, int(width / len(names) / _CHARACTER))
    return [(index, name if len(name) <= most else name[: most - 1] + "…") for index, name in enumerate(names)]


def _finished(chart: Curves | Scatter, x: svg.Axis, parts: Sequence[str]) -> str:
    width, height, *_ = _SIZES[chart.size]
    titles = [svg.text(x.end, height - 8, f"{chart.x_title} →", "name", "end")] if chart.x_title else []
    if isinstance(chart, Scatter) and chart.y_title:
        titles.append(svg.text(8, 12, chart.y_title, "name"))
    return svg.drawing(width, height, [*parts, *titles], chart.description)


def _intervals(chart: Intervals) -> str:
    names = [row.name if chart.share else labels.shortened(row.name) for row in chart.rows]
    left = 16 + _CHARACTER * max(map(len, names), default=0)
    bottom = 12 + _ROW_HEIGHT * len(chart.rows)
    if chart.share:
        x = svg.Axis(0, 1, left, left + 420)
        ticks = [(tick / 4, f"{25 * tick}%") for tick in range(5)]
    else:
        x = svg.axis_over([chart.mark, *(end for row in chart.rows for end in (row.low, row.high))], left, left + 290)
        ticks = [(tick, svg.tick_label(tick)) for tick in x.ticks(4)]
    parts = [svg.line(x(value), 6, x(value), bottom, "grid") for value, _ in ticks]
    parts += [svg.text(x(value), bottom + 16, label, "tick", "middle") for value, label in ticks]
    parts.append(svg.line(x(chart.mark), 6, x(chart.mark), bottom, "base-line"))
    for index, (row, name) in enumerate(zip(chart.rows, names, strict=True)):
        parts += _interval(row, name, x, 12 + _ROW_HEIGHT * (index + 0.5))
    return svg.drawing(x.end + 24, bottom + 24, parts, chart.description)


def _interval(row: Interval, name: str, x: svg.Axis, y: float) -> list[str]:
    css = "hollow" if row.color is None else color_class(row.color)
    return [
        svg.text(x.start - 10, y + 4, name, "label", "end"),
        svg.line(x(row.low), y, x(row.high), y, "interval"),
        svg.dot(x(row.value), y, 5, css, row.hint),
    ]


def _heat_map(chart: HeatMap) -> str:
    """Blue above 0, orange below, stronger the farther from it."""
    left = 12 + _CHARACTER * max(map(len, chart.rows))
    top = 16 + _CHARACTER * 0.75 * max(map(len, chart.columns))
    heads = enumerate(chart.columns)
    parts = [svg.slanted(left + (index + 0.5) * _CELL_WIDTH - 4, top - 8, name, "tick") for index, name in heads]
    for line, name in enumerate(chart.rows):
        y = top + line * _CELL_HEIGHT
        parts.append(svg.text(left - 8, y + _CELL_HEIGHT / 2 + 4, name, "", "end"))
        for index, value in enumerate(chart.values[line]):
            hint = f"{name}, {chart.columns[index]}: {value:+.3f}"
            parts += _heat_cell(left + index * _CELL_WIDTH, y, value, hint)
    right = 24 + _CHARACTER * 0.75 * len(chart.columns[-1])
    width, height = left + len(chart.columns) * _CELL_WIDTH + right, top + len(chart.rows) * _CELL_HEIGHT + 4
    return svg.drawing(width, height, parts, chart.description, fixed=True)


def _heat_cell(x: float, y: float, value: float, hint: str) -> list[str]:
    css, strength = ("c0" if value >= 0 else "c1"), 0.85 * min(1.0, abs(value)) if math.isfinite(value) else 0.0
    label = f"{value:+.2f}".replace("0.", ".")
    return [
        svg.cell(x + 1, y + 1, _CELL_WIDTH - 2, _CELL_HEIGHT - 2, css, opacity=strength, tooltip=hint),
        svg.text(x + _CELL_WIDTH / 2, y + _CELL_HEIGHT / 2 + 4, label, "number", "middle"),
    ]
