"""Tables of a comparison: methods with their scores and costs, and differences of ablations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from srpo_ray.evaluation.comparison import Gap, arm_metrics, baseline_level, gain, gap_table, level, num_tests
from srpo_ray.evaluation.costs import arm_passage
from srpo_ray.evaluation.crossed import Estimate
from srpo_ray.evaluation.numbers import gain_text, half_width_text, number, param_text, signed
from srpo_ray.evaluation.results import (
    CALLS,
    CONTENT_ACCURACY,
    MEAN_UTILITY,
    OWN_WORDS,
    SECONDS,
    TRAINED_GAIN,
    TRAINED_REWARD,
    Arm,
    Results,
)
from srpo_ray.reports.cost_tables import passage_text
from srpo_ray.reports.footnotes import interval_note
from srpo_ray.reports.report import NOTHING, Cell, Column, Row, Table

_TITLES = {
    CONTENT_ACCURACY: "content",
    MEAN_UTILITY: "utility",
    TRAINED_GAIN: "gain (sd)",
    TRAINED_REWARD: "plain reward",
    f"{TRAINED_REWARD}/relative": "reward rel.",
    OWN_WORDS: "own words",
}
_TERMINAL_METRICS = 6
_SPREAD = "sd over seeds"
_UNSET = object()


@dataclass(frozen=True)
class ArmsTable:
    """The table of all arms for the CSV file, and that of the methods for people."""

    all: Table
    without_ablations: Table


def arms_table(report: Results) -> ArmsTable:
    """Means of each metric over seeds and prompts, gains, differences from the reference arm, and costs."""
    metrics = arm_metrics(report)
    against = gap_table(report, report.methods, [report.objective])
    gains = [gain(report, arm.ended, report.objective) for arm in report.methods]
    costs = ["calls", "calls_reached", "seconds"]
    columns = [
        Column("arm", "method", numeric=False, width=24),
        *(Column(key) for key in ("kind", "seeds")),
        *(Column(f"{metric} mean", metric_title(metric), number, hint=metric) for metric in metrics),
        *(Column(f"{metric} mean") for metric in (CALLS, SECONDS)),
        *(Column(f"{metric} {part}") for metric in metrics for part in ("gain", "gain 95%")),
        *(Column(f"{metric} {_SPREAD}") for metric in (*metrics, CALLS, SECONDS)),
        Column("change", "vs base", signed, hint=f"gain of {report.objective}", noted=True),
        Column("spread", _SPREAD, number, hint=report.objective),
        Column("gap", f"vs {report.reference}", signed),
        *(Column("calls"), Column("calls_reached", "calls to target")),
        *(Column("seconds"), Column("seconds_reached", "seconds to target")),
        *(Column("calls to target"), Column("seconds to target")),
        Column("hacked", text=lambda count: str(count or "")),
    ]
    means = [f"{metric} mean" for metric in metrics]
    scores = [f"{metric} {part}" for metric in metrics for part in ("mean", "gain", "gain 95%", _SPREAD)]
    spent = [f"{cost} {part}" for cost in (CALLS, SECONDS) for part in ("mean", _SPREAD)]
    table = Table(
        columns,
        [_arm_row(report, arm, metrics, against) for arm in report.baseline_and_arms],
        head="arm",
        title=report.title,
        caption=f"{interval_note(gains)} That of calls counts seeds only.",
        page=["arm", *means, "spread", "gap", *costs, "hacked"],
        terminal=["arm", *means[:1], "change", *means[1:_TERMINAL_METRICS], "calls", "calls_reached"],
        file=["arm", "kind", "seeds", *scores, *spent, "calls to target", "seconds to target"],
    )
    shown = [row for row, arm in zip(table.rows, report.baseline_and_arms, strict=True) if arm.kind != "ablation"]
    return ArmsTable(table, replace(table, rows=shown))


def _arm_row(report: Results, arm: Arm, metrics: Sequence[str], against: Mapping[tuple[str, str], Gap]) -> Row:
    cells: dict[str, Any] = {"kind": arm.kind, "seeds": len(arm.ended), "hacked": _hacked(arm)}
    seeds = f"{len(arm.ended)} seed{'s' if len(arm.ended) != 1 else ''}"
    cells["arm"] = Cell(arm.name, "" if arm.kind == "base" else seeds)
    for metric in (*metrics, CALLS, SECONDS):
        cells |= _score_cells(report, arm, metric)
    cells["spread"] = cells.get(f"{report.objective} {_SPREAD}")
    risen = None if arm.kind == "base" else gain(report, arm.ended, report.objective)
    cells["change"] = risen and Cell(risen.mean, half_width_text(risen))
    for name, cost in (("calls", CALLS), ("seconds", SECONDS)):
        cells |= _cost_cells(report, arm, name, cost)
    cells["gap"] = _gap_cell(against.get((arm.name, report.objective)))
    kind = "base" if arm.kind == "base" else "reference" if arm.name == report.reference else ""
    return Row(cells, kind)


def _score_cells(report: Results, arm: Arm, metric: str) -> dict[str, Any]:
    """Mean of a metric with its gain over the baseline in small print, and the gain in columns of its own."""
    if arm.kind == "base":
        return {f"{metric} mean": baseline_level(report, metric)}
    found = level(arm.ended, metric)
    if found is None:
        return {}
    cells: dict[str, Any] = {f"{metric} {_SPREAD}": found.spread}
    if metric in (CALLS, SECONDS):
        return cells | {f"{metric} mean": found.mean}
    risen = gain(report, arm.ended, metric)
    # The trained reward's gain is a difference from the baseline already.
    note = half_width_text(risen) if metric == TRAINED_GAIN else gain_text(risen)
    cells[f"{metric} mean"] = Cell(found.mean, "" if risen is None else note)
    return cells if risen is None else cells | _gain_columns(metric, risen)


def _cost_cells(report: Results, arm: Arm, name: str, cost: str) -> dict[str, Any]:
    """All that a run cost, and what it cost until it first had the target score."""
    spent = arm.over_seeds(cost)
    if arm.kind == "base" or spent is None:
        return {name: NOTHING, f"{name}_reached": NOTHING}
    reached = None if report.target is None else arm_passage(report, arm, report.target, cost)
    exact = reached and reached.cost
    texts = {name: f"{spent.mean:.0f}", f"{name}_reached": passage_text(reached)}
    return {**texts, f"{name} to target": exact and exact.mean}


def _gain_columns(metric: str, risen: Estimate) -> dict[str, Any]:
    return {f"{metric} gain": risen.mean, f"{metric} gain 95%": risen.half_width}


def ablations_table(report: Results) -> Table:
    """Differences of the ablations from the reference arm, `clear` where Holm's correction keeps them."""
    metrics = arm_metrics(report)
    gaps = gap_table(report, report.ablations, metrics)
    columns = [
        Column("changed", numeric=False, width=24),
        *(Column(metric, metric_title(metric), signed, hint=metric) for metric in metrics),
        Column("calls", text=lambda spent: NOTHING if spent is None else f"{spent:.2f}"),
        Column("hacked", text=lambda count: str(count or "")),
    ]
    rows = [
        Row(
            {
                "changed": Cell(arm.name, changed_settings(report, arm)),
                **{metric: _gap_cell(gaps.get((arm.name, metric))) for metric in metrics},
                "calls": report.spent(arm),
                "hacked": _hacked(arm),
            }
        )
        for arm in report.ablations
    ]
    title = f"ablations of {report.reference}: difference, * if not zero (Holm, {num_tests(gaps.values())} tests)"
    return Table(columns, rows, head="changed", title=title, terminal=["changed", *metrics[:_TERMINAL_METRICS]])


def _gap_cell(gap: Gap | None) -> Cell:
    return Cell(None) if gap is None else Cell(gap.estimate.mean, half_width_text(gap.estimate), gap_style(gap))


def gap_style(gap: Gap) -> str:
    """`clear` where the difference is significant, `unclear` where it is not, empty where it is not tested."""
    return "" if not gap.tested else "clear" if gap.significant else "unclear"


def _hacked(arm: Arm) -> int:
    """Runs of the arm in which reward hacking was detected."""
    return sum(bool(row.signs) for row in arm.rows)


def changed_settings(report: Results, arm: Arm) -> str:
    """Settings in which an ablation differs from the reference arm, `path = value, ...`."""
    reference = report.arm(report.reference)
    own = {path: value for path, value in arm.changes.items() if reference.changes.get(path, _UNSET) != value}
    return settings(own)


def settings(changes: Mapping[str, Any]) -> str:
    """`path = value, ...`."""
    return ", ".join(f"{path} = {'null' if value is None else param_text(value)}" for path, value in changes.items())


def metric_title(metric: str) -> str:
    """`evaluator/held_out/relative` -> `held_out rel.`."""
    return _TITLES.get(metric, metric.partition("/")[2].replace("/relative", " rel."))
