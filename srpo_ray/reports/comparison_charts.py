"""Charts of a comparison: scores against cost, trained reward against held-out score, effects of ablations."""

from collections.abc import Sequence
from statistics import mean

from srpo_ray.evaluation.comparison import arm_metrics, gain, gap_table
from srpo_ray.evaluation.numbers import number, signed
from srpo_ray.evaluation.results import CALLS, TRAINED_GAIN, Results, TrialRow
from srpo_ray.reports.charts import Curves, Dot, Interval, Intervals, Line, Point, Scatter


def cost_chart(report: Results, metric: str) -> Curves | None:
    """The metric against the calls that were spent: each run light, the mean over seeds strong, log axis."""
    base, lines = report.baseline(metric), []
    for color, arm in enumerate(report.methods):
        curves = [curve for row in arm.ended if (curve := _curve(row, metric))]
        lines += [Line(arm.name, [curve], "thin", color=color) for curve in curves]
        middle = _mean_curve(curves)
        if middle:
            hint = f"{arm.name}: {number(middle[-1][1])}"
            lines.append(Line(arm.name, [middle], "strong", hint, color, labelled=True, ended=True))
    if not lines or base is None:
        return None
    return Curves(
        title=metric,
        description=f"{metric} against velocity evaluations",
        lines=lines,
        baseline=base,
        target=report.target if metric == report.objective else None,
        log=True,
        x_title="velocity evaluations, with gradient counted three times",
        size="medium",
    )


def _curve(row: TrialRow, metric: str) -> list[Point]:
    return [(e[CALLS], e[metric]) for e in row.history if e.get(CALLS, 0.0) > 0 and metric in e]


def _mean_curve(lines: Sequence[Sequence[Point]]) -> list[Point]:
    """Point by point; runs of one method are evaluated after the same updates, but for those that ended early."""
    columns = [[line[index] for line in lines if index < len(line)] for index in range(max(map(len, lines), default=0))]
    whole = [column for column in columns if len(column) == len(lines)]
    return [(mean(calls for calls, _ in column), mean(value for _, value in column)) for column in whole]


def reward_chart(report: Results) -> Scatter | None:
    """Gain of each run's own trained reward against gain of the objective: runs small, means large."""
    dots = []
    for color, arm in enumerate(report.methods):
        rises = [[gain(report, [row], metric) for metric in (TRAINED_GAIN, report.objective)] for row in arm.ended]
        gains = [(one.mean, other.mean) for one, other in rises if one is not None and other is not None]
        if gains:
            dots += [Dot(one, other, arm.name, arm.name, color, "seed") for one, other in gains]
            center = mean(one for one, _ in gains), mean(other for _, other in gains)
            dots.append(Dot(*center, arm.name, f"{arm.name}: {len(gains)} seeds", color, labelled=True))
    if not dots:
        return None
    return Scatter(
        title="",
        description=f"Rise of the trained reward against gain of {report.objective}",
        dots=dots,
        baseline=0.0,
        origin=True,
        x_title="rise of the trained reward, in standard deviations",
        y_title=f"gain of {report.objective}",
        size="medium",
    )


def ablation_chart(report: Results, metric: str) -> Intervals | None:
    """Each ablation's difference from the reference arm with its 95% interval, filled where Holm's test keeps it."""
    gaps = gap_table(report, report.ablations, arm_metrics(report))
    rows = []
    for arm in report.ablations:
        gap = gaps.get((arm.name, metric))
        if gap is not None:
            half, middle = gap.estimate.half_width or 0.0, gap.estimate.mean
            hint = f"{arm.name}: {signed(middle)} ± {number(half)}"
            color = 0 if gap.significant else None
            rows.append(Interval(arm.name, middle, middle - half, middle + half, hint, color))
    return Intervals(metric, f"Effect of ablations on {metric}", rows) if rows else None
