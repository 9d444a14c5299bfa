"""Section on side effects at equal gain: tables of arms at the same gains, and curves of side effect against gain."""

from collections.abc import Sequence

from srpo_ray.evaluation.comparison import Gap
from srpo_ray.evaluation.crossed import Estimate
from srpo_ray.evaluation.equal_gain import EqualGain, effect_curve, equal_gain, side_metrics
from srpo_ray.evaluation.numbers import half_width_text, number, signed
from srpo_ray.evaluation.results import Results
from srpo_ray.reports.charts import Curves, Line
from srpo_ray.reports.comparison_tables import gap_style, metric_title
from srpo_ray.reports.footnotes import tests_note
from srpo_ray.reports.report import Cell, Charts, Column, Part, Row, Section, Table, Text

_MOST_METRICS = 8


def equal_gain_section(report: Results) -> Section | None:
    """Side effects of methods, and of ablations, at equal gain of each metric that the experiment names."""
    reference = report.arm(report.reference)
    groups = [report.methods, [reference, *report.ablations]]
    parts: list[Part] = []
    for metric in report.equal_gain or (report.objective,):
        compared = [found for arms in groups if (found := equal_gain(report, metric, arms)) is not None]
        if not compared and report.equal_gain:
            parts.append(Text(f"{metric}: no two arms gain enough of it to be compared, or no run has this metric."))
        parts += [part for found in compared for part in _parts(report, found)]
    return Section("Side effects at equal gain", parts) if parts else None


def _parts(report: Results, found: EqualGain) -> list[Part]:
    metrics = side_metrics(report, found.metric)[:_MOST_METRICS]
    fall = " (a fall counts as the gain)" if found.direction < 0 else ""
    text = Text(
        f"Changes since the baseline at the evaluation, between two by proportion, at which {found.metric} had first"
        f" gained as much in every arm{fall}. Arms that learn fast are compared before they have changed more."
    )
    charts = [chart for metric in metrics if (chart := _chart(report, found, metric)) is not None]
    return [text, _table(report, found, metrics), Text(_note(report, found)), Charts(charts, "medium")]


def _note(report: Results, found: EqualGain) -> str:
    left_out = f" Left out, as they gain too little: {', '.join(found.left_out)}." if found.left_out else ""
    return (
        "± is half of the 95% interval of the mean over training seeds, with prompts fixed. Marks compare with"
        f" {report.reference} at the same gain. {tests_note(found.gaps.values())}{left_out}"
    )


def _table(report: Results, found: EqualGain, metrics: Sequence[str]) -> Table:
    columns = [
        Column("arm", "method", numeric=False),
        Column("gain", f"gain of {metric_title(found.metric)}", signed, hint=found.metric),
        *(Column(metric, metric_title(metric), signed, hint=metric) for metric in metrics),
    ]
    rows = [
        Row(
            {
                "arm": arm.name,
                "gain": found.direction * gain,
                **{metric: _cell(found, arm.name, gain, metric) for metric in metrics},
            },
            "reference" if arm.name == report.reference else "",
        )
        for gain in found.gains
        for arm in found.arms
    ]
    return Table(columns, rows, head="arm")


def _cell(found: EqualGain, arm: str, gain: float, metric: str) -> Cell:
    effect: Estimate | None = found.effects.get((arm, gain, metric))
    gap: Gap | None = found.gaps.get((arm, gain, metric))
    if effect is None:
        return Cell(None)
    return Cell(effect.mean, half_width_text(effect), "" if gap is None else gap_style(gap))


def _chart(report: Results, found: EqualGain, metric: str) -> Curves | None:
    lines = []
    for color, arm in enumerate(found.arms):
        curve = [(found.direction * gain, change) for gain, change in effect_curve(report, arm, found.metric, metric)]
        if curve:
            hint = f"{arm.name}: {signed(curve[-1][1])} at {number(curve[-1][0])}"
            lines.append(Line(arm.name, [curve], "strong", hint, color, labelled=True, ended=True))
    if not lines:
        return None
    return Curves(
        title=metric,
        description=f"Change of {metric} against the gain of {found.metric}",
        lines=lines,
        baseline=0.0,
        x_title=f"change of {found.metric}",
        size="medium",
    )
