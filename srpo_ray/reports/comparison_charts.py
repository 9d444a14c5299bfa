"""Figures of a study, as inline SVG: scores against cost, reward against held-out score, what each ablation moved."""

from collections.abc import Sequence
from statistics import mean

from srpo_ray.evaluation.comparison import CALLS, StudyReport, gap_table, study_metrics
from srpo_ray.evaluation.numbers import number, signed
from srpo_ray.evaluation.results import TRAINED_GAIN, TrialRow
from srpo_ray.reports import svg

_NUM_COLORS = 8
_ROW_HEIGHT = 26
_LABEL_WIDTH = 90


def method_colors(report: StudyReport) -> dict[str, str]:
    """Name of each method -> the CSS class of its colour."""
    return {arm.name: f"c{index % _NUM_COLORS}" for index, arm in enumerate(report.methods)}


def cost_figure(report: StudyReport, metric: str) -> str | None:
    """The metric against the calls that were spent: each run light, the mean over seeds strong, log axis."""
    curves = {arm.name: [curve for row in arm.ended if (curve := _curve(row, metric))] for arm in report.methods}
    points = [point for lines in curves.values() for line in lines for point in line]
    base = report.untrained(metric)
    if not points or base is None:
        return None
    x = svg.axis_over([calls for calls, _ in points], 56, 372, log=True, room=0.03)
    y = svg.axis_over([base, *(value for _, value in points)], 280, 14)
    parts = [*svg.grid(x, y), svg.line(x.start, y(base), x.end, y(base), "base-line")]
    if metric == report.objective and report.target is not None:
        parts.append(svg.line(x.start, y(report.target), x.end, y(report.target), "target"))
    colors = method_colors(report)
    ends: list[tuple[float, float, str]] = []
    for name, lines in curves.items():
        pixels = [[(x(calls), y(value)) for calls, value in line] for line in lines]
        parts += [svg.polyline(line, f"thin {colors[name]}") for line in pixels]
        middle = _mean_curve(lines)
        pixels = [(x(calls), y(value)) for calls, value in middle]
        if not pixels:
            continue
        parts.append(svg.polyline(pixels, f"strong {colors[name]}", name))
        parts.append(svg.dot(*pixels[-1], 3.5, colors[name], f"{name}: {number(middle[-1][1])}"))
        ends.append((*pixels[-1], name))
    parts += _end_labels(ends)
    parts.append(svg.text(372, 314, "velocity evaluations, with gradient counted three times →", "name", "end"))
    return svg.drawing(550, 322, parts, f"{metric} against velocity evaluations")


def _curve(row: TrialRow, metric: str) -> list[svg.Point]:
    return [(e[CALLS], e[metric]) for e in row.history if e.get(CALLS, 0.0) > 0 and metric in e]


def _mean_curve(lines: Sequence[Sequence[svg.Point]]) -> list[svg.Point]:
    """Point by point; runs of one method are evaluated after the same updates, but for those that ended early."""
    columns = [[line[index] for line in lines if index < len(line)] for index in range(max(map(len, lines), default=0))]
    whole = [column for column in columns if len(column) == len(lines)]
    return [(mean(calls for calls, _ in column), mean(value for _, value in column)) for column in whole]


def _end_labels(ends: Sequence[tuple[float, float, str]]) -> list[str]:
    """Names beside the ends of curves, pushed down where they would overlap one above."""
    labels: list[str] = []
    placed: list[svg.Point] = []
    for left, top, name in sorted(ends, key=lambda end: end[1]):
        near = [bottom for other, bottom in placed if abs(other - left) < _LABEL_WIDTH]
        bottom = max([top + 4, *(above + 14 for above in near)])
        placed.append((left, bottom))
        labels.append(svg.text(left + 8, bottom, name, "label"))
    return labels


def reward_figure(report: StudyReport) -> str | None:
    """Gain of each run's own trained reward against gain of the objective: runs small, means large."""
    base = report.untrained(report.objective)
    if base is None:
        return None
    spots: list[tuple[str, list[svg.Point]]] = []
    for arm in report.methods:
        values = [(row.value(TRAINED_GAIN), row.value(report.objective)) for row in arm.ended]
        gains = [(one, other - base) for one, other in values if one is not None and other is not None]
        spots += [(arm.name, gains)] * bool(gains)
    if not spots:
        return None
    x = svg.axis_over([0.0, *(gain for _, gains in spots for gain, _ in gains)], 56, 372)
    y = svg.axis_over([0.0, *(gain for _, gains in spots for _, gain in gains)], 280, 14)
    parts = [*svg.grid(x, y), svg.line(x.start, y(0), x.end, y(0), "base-line")]
    parts.append(svg.line(x(0), y.start, x(0), y.end, "base-line"))
    colors = method_colors(report)
    labels = []
    for name, gains in spots:
        parts += [svg.dot(x(one), y(other), 3, f"{colors[name]} faint", name) for one, other in gains]
        center = (x(mean(one for one, _ in gains)), y(mean(other for _, other in gains)))
        parts.append(svg.dot(*center, 6.5, colors[name], f"{name}: {len(gains)} seeds"))
        labels.append((*center, name))
    parts += _end_labels(labels)
    parts.append(svg.text(372, 314, "rise of the trained reward, in standard deviations →", "name", "end"))
    return svg.drawing(550, 322, parts, f"Rise of the trained reward against gain of {report.objective}")


def ablation_figure(report: StudyReport, metric: str) -> str | None:
    """Each ablation's difference from the ablated method with its 95% interval, filled where Holm's test keeps it."""
    gaps = gap_table(report, report.ablations, study_metrics(report))
    found = [(arm, gap) for arm in report.ablations if (gap := gaps.get((arm.name, metric))) is not None]
    if not found:
        return None
    ends = [gap.seeds.mean + side * (gap.seeds.half_width or 0.0) for _, gap in found for side in (-1, 1)]
    bottom = 14 + _ROW_HEIGHT * len(found)
    x = svg.axis_over([0.0, *ends], 120, 400)
    parts = [svg.text(x(tick), bottom + 16, svg.tick_label(tick), "tick", "middle") for tick in x.ticks(4)]
    parts.append(svg.line(x(0), 4, x(0), bottom, "base-line"))
    for index, (arm, gap) in enumerate(found):
        center = 14 + _ROW_HEIGHT * (index + 0.5)
        half, mean_gap = gap.seeds.half_width or 0.0, gap.seeds.mean
        parts.append(svg.line(x(mean_gap - half), center, x(mean_gap + half), center, "interval"))
        css = "c0" if gap.significant else "hollow"
        parts.append(svg.dot(x(mean_gap), center, 5, css, f"{arm.name}: {signed(mean_gap)} ± {number(half)}"))
        parts.append(svg.text(112, center + 4, arm.name, "label", "end"))
    return svg.drawing(414, bottom + 24, parts, f"What ablations change of {metric}")
