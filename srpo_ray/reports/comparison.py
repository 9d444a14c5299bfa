"""A study for people and programs: terminal tables, table.csv, study.json, and one self-contained HTML page."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from srpo_ray.evaluation.comparison import (
    CALLS,
    SECONDS,
    Arm,
    Gap,
    StudyReport,
    Tuned,
    arm_cost,
    common_targets,
    cost_to_reach,
    gap_table,
    study_metrics,
)
from srpo_ray.evaluation.numbers import number, param_text, signed, spread_text
from srpo_ray.evaluation.results import CONTENT_ACCURACY, OWN_WORDS, TRAINED_GAIN, TRAINED_REWARD
from srpo_ray.files import write_text
from srpo_ray.reports.comparison_charts import ablation_figure, cost_figure, method_colors, reward_figure
from srpo_ray.reports.html import embedded, render
from srpo_ray.reports.sweep_table import jsonable

_TITLES = {
    CONTENT_ACCURACY: "content",
    TRAINED_GAIN: "gain (sd)",
    TRAINED_REWARD: "plain reward",
    f"{TRAINED_REWARD}/relative": "reward rel.",
    OWN_WORDS: "own words",
}
EQUAL = 0.05
"""Relative difference in compute up to which two methods count as trained for as long."""
_TERMINAL_METRICS = 8
_UNSET = object()
_MOST_FIGURES = 10


def study_table(report: StudyReport) -> Table:
    """Methods for the terminal: mean over seeds of each metric, and what they cost."""
    metrics = study_metrics(report)[:_TERMINAL_METRICS]
    table = Table(title=report.title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("method", no_wrap=True)
    for title in (*map(metric_title, metrics), "calls", "calls to target"):
        table.add_column(title, justify="right", overflow="fold")
    for arm in [arm for arm in report.arms if arm.kind != "ablation"]:
        cells = [number(found.mean) if (found := arm.over_seeds(metric)) else "-" for metric in metrics]
        table.add_row(arm.name, *cells, *cost_texts(report, arm))
    return table


def ablation_table(report: StudyReport) -> Table:
    """Ablations for the terminal: differences from the ablated method, `*` where Holm's correction keeps them."""
    metrics = study_metrics(report)[:_TERMINAL_METRICS]
    gaps = gap_table(report, report.ablations, study_metrics(report))
    title = f"ablations of {report.ablated}: difference, * if not zero over seeds (Holm, {len(gaps)} cells)"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("changed", no_wrap=True)
    for metric in metrics:
        table.add_column(metric_title(metric), justify="right", overflow="fold")
    for arm in report.ablations:
        cells = [gaps.get((arm.name, metric)) for metric in metrics]
        table.add_row(arm.name, *(f"{signed(gap.seeds.mean)}{'*' * gap.significant}" if gap else "-" for gap in cells))
    return table


def metric_title(metric: str) -> str:
    """`panel/held_out/relative` -> `held_out rel.`."""
    return _TITLES.get(metric, metric.partition("/")[2].replace("/relative", " rel."))


def cost_texts(report: StudyReport, arm: Arm, cost: str = CALLS) -> tuple[str, str]:
    """All that a run cost, and what it had until the target; more than all where that was not reached."""
    spent, reached = arm.over_seeds(cost), arm_cost(report, arm, cost)
    if arm.kind == "base" or spent is None:
        return "-", "-"
    return f"{spent.mean:.0f}", f"{reached.mean:.0f}" if reached else f"> {spent.mean:.0f}"


def passage_text(report: StudyReport, arm: Arm, target: float) -> str:
    """Calls until the arm first reached a score, `1986 ± 40` over seeds.

    `> 5760` if a run never did, and `< 1440` if one did before its first evaluation after training began, where only a
    straight line from the untrained model would give a number.
    """
    spent, reached = arm.over_seeds(CALLS), arm_cost(report, arm, target=target)
    if spent is None or not arm.ended:
        return "-"
    if reached is None:
        return f"> {spent.mean:.0f}"
    first = [next((e[CALLS] for e in row.history if e[CALLS] > 0), 0.0) for row in arm.ended]
    costs = [cost_to_reach(row, report.objective, target, report.mode) for row in arm.ended]
    if any(cost is not None and cost < before for cost, before in zip(costs, first, strict=True)):
        return f"< {max(first):.0f}"
    return f"{reached.mean:.0f}" + ("" if reached.spread is None else f" ± {reached.spread:.0f}")


def write_study(folder: Path, report: StudyReport, pictures: Path | None) -> Path:
    """Write `table.csv`, `study.json` and `report.html`, and return the path of the page.

    Args:
        folder: Where to write.
        report: What the study found.
        pictures: Picture grid of the methods for the same prompts and noise.
    """
    write_text(folder / "table.csv", as_csv(report))
    write_text(folder / "study.json", json.dumps(jsonable(asdict(report)), indent=2) + "\n")
    return write_text(folder / "report.html", render("study.html", **_page(report, pictures)))


def as_csv(report: StudyReport) -> str:
    """One line per arm: mean and standard deviation of every metric, and costs."""
    metrics = [*study_metrics(report), CALLS, SECONDS]
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    heads = [f"{metric} {part}" for metric in metrics for part in ("mean", "sd")]
    writer.writerow(["arm", "kind", "seeds", *heads, "calls to target", "seconds to target"])
    for arm in report.arms:
        found = [arm.over_seeds(metric) for metric in metrics]
        cells = [part for seeds in found for part in ((seeds.mean, seeds.spread) if seeds else ("", ""))]
        reached = [arm_cost(report, arm, cost) if arm.kind != "base" else None for cost in (CALLS, SECONDS)]
        costs = [seeds.mean if seeds else "" for seeds in reached]
        writer.writerow([arm.name, arm.kind, len(arm.ended), *cells, *costs])
    return file.getvalue()


def _page(report: StudyReport, pictures: Path | None) -> dict[str, Any]:
    metrics = study_metrics(report)
    figures = [(metric, cost_figure(report, metric)) for metric in metrics[:_MOST_FIGURES]]
    ablated = [(metric, ablation_figure(report, metric)) for metric in metrics]
    gaps = gap_table(report, report.ablations, metrics)
    against = gap_table(report, report.methods, [report.objective])
    return {
        "report": report,
        "headline": _headline(report),
        "metrics": [(metric, metric_title(metric)) for metric in metrics],
        "lines": [_line(report, arm, metrics, against) for arm in report.arms if arm.kind != "ablation"],
        "ablations": [_gaps(report, arm, metrics, gaps) for arm in report.ablations],
        "num_cells": len(gaps),
        "targets": common_targets(report),
        "passages": [
            (arm, [passage_text(report, arm, target) for target in common_targets(report)]) for arm in report.methods
        ],
        "colors": method_colors(report),
        "cost_figures": [(metric, drawing) for metric, drawing in figures if drawing],
        "reward_figure": reward_figure(report),
        "ablation_figures": [(metric, drawing) for metric, drawing in ablated if drawing],
        "pictures": embedded(pictures) if pictures and pictures.is_file() else None,
        "tuning": [_tuning(report, tuned) for tuned in report.tuning],
    }


def _headline(report: StudyReport) -> str:
    """Who came out best among those that were trained for about as long as the ablated method."""
    base = report.untrained(report.objective)
    equal = [arm for arm in report.methods if abs((report.spent(arm) or math.inf) - 1) <= EQUAL]
    found = [(arm.name, seeds) for arm in equal if (seeds := arm.over_seeds(report.objective))]
    if not found or base is None:
        return f"No method has a value of {report.objective}."
    sign = 1 if report.mode == "max" else -1
    name, seeds = max(found, key=lambda item: sign * item[1].mean)
    return f"{name} ends best at equal compute: {report.objective} {number(base)} → {spread_text(seeds)}"


def _line(
    report: StudyReport, arm: Arm, metrics: Sequence[str], against: Mapping[tuple[str, str], Gap]
) -> dict[str, Any]:
    """A row of the table: values, what they cost, and the difference of the objective from the ablated method's."""
    return {
        "arm": arm,
        "cells": [arm.over_seeds(metric) for metric in metrics],
        "calls": cost_texts(report, arm),
        "seconds": cost_texts(report, arm, SECONDS),
        "gap": against.get((arm.name, report.objective)),
        "alarms": sum(bool(row.alarms) for row in arm.rows),
        "changed": _settings(arm.changes),
    }


def _gaps(report: StudyReport, arm: Arm, metrics: Sequence[str], gaps: Mapping[tuple[str, str], Gap]) -> dict[str, Any]:
    reference = report.arm(report.ablated)
    own = {path: value for path, value in arm.changes.items() if reference.changes.get(path, _UNSET) != value}
    return {
        "arm": arm,
        "gaps": [gaps.get((arm.name, metric)) for metric in metrics],
        "spent": report.spent(arm),
        "alarms": sum(bool(row.alarms) for row in arm.rows),
        "changed": _settings(own),
    }


def _settings(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{path} = {'null' if value is None else param_text(value)}" for path, value in changes.items())


def _tuning(report: StudyReport, tuned: Tuned) -> dict[str, Any]:
    tried = [
        {
            "label": row.label,
            "value": row.value(report.objective) if row.ended else None,
            "status": "" if row.ended else row.status,
            "chosen": row.name == tuned.chosen,
        }
        for row in tuned.rows
    ]
    return {"method": tuned.method, "tried": tried}
