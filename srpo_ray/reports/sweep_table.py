"""The sweep as a table: for the terminal, and as CSV and JSON files."""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from srpo_ray.evaluation.numbers import SHORT_TITLES, deviations, number, param_text, param_titles, signed
from srpo_ray.evaluation.results import (
    CONTENT_ACCURACY,
    TRAINED_GAIN,
    SweepReport,
    TrialRow,
    metric_names,
    ranking,
    shared_step,
    varied_params,
)
from srpo_ray.files import write_text

_MOST_TERMINAL_PARAMS = 4
_NOTHING = "-"
_STATUSES = {"finished": "done", "stopped early": "stopped", "failed": "failed"}
_STYLES = {"base": "cyan", "repeat": "dim", "ablation": "dim", "trial": ""}


@dataclass(frozen=True)
class Column:
    """One column: what it shows of a row, and how."""

    title: str
    value: Callable[[TrialRow], Any]
    text: Callable[[Any], str]
    numeric: bool = True


def param_columns(report: SweepReport) -> list[Column]:
    """Parameters that differ between trials; with a single trial, the ones a reader looks for first."""
    paths = varied_params(report) or [path for path in SHORT_TITLES if any(path in row.params for row in report.rows)]
    titles = param_titles(paths)

    def param(path: str) -> Column:
        return Column(titles[path], lambda row: row.params.get(path), param_text, numeric=False)

    return [param(path) for path in paths]


def metric_columns(report: SweepReport) -> list[Column]:
    """Objective, its change, the training reward, then the truth that is known."""

    def metric(title: str, name: str) -> Column:
        return Column(title, lambda row: row.value(name), number)

    def change(title: str, name: str) -> Column:
        return Column(title, lambda row: None if row.kind == "base" else report.change(row, name), signed)

    names = metric_names(report)
    truths = [name for name in names if name.startswith("truth/") and not name.endswith("_accuracy")]
    columns = [
        metric(report.objective.rpartition("/")[2], report.objective),
        change("vs base", report.objective),
        _reward_column(report.reward),
        *(metric(name.rpartition("/")[2], name) for name in truths),
    ]
    return columns + [metric("content", CONTENT_ACCURACY)] * (CONTENT_ACCURACY in names)


def ranked_table(report: SweepReport) -> Table:
    """All runs for the terminal, the best objective first, at most 120 columns wide.

    Ranks count trials; the untrained model, repeats and ablations stand where their value puts them. At most
    four parameters are shown and, beside content accuracy, the truth that the best trial moved most; files and the
    report hold all.
    """
    metrics = metric_columns(report)
    hidden = _by_movement(report, [column for column in metrics[3:] if column.title != "content"])[1:]
    columns = param_columns(report)[:_MOST_TERMINAL_PARAMS]
    columns += [column for column in metrics if column not in hidden]
    table = Table(title=Text(report.title), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.caption = _stopped_note(report)
    table.add_column("#", justify="right", no_wrap=True, min_width=2)
    table.add_column("name", no_wrap=True, max_width=16)
    for column in columns:
        justify = "right" if column.numeric else "left"
        least = 6 if column.numeric else 2
        title = Text(column.title, overflow="ellipsis")
        table.add_column(title, justify=justify, no_wrap=True, min_width=least, max_width=10)
    table.add_column("status", no_wrap=True, max_width=8)
    best = report.best_row
    for rank, row in ranking(report):
        values = [column.text(column.value(row)) for column in columns]
        cells = [_NOTHING if rank is None else str(rank), row.name, *values, status_text(row)]
        calm = "dark_orange" if row.alarms else _STYLES[row.kind]
        style = "red" if row.failed else "bold green" if row is best else calm
        table.add_row(*(Text(cell, overflow="ellipsis") for cell in cells), style=style)
    return table


def _stopped_note(report: SweepReport) -> str | None:
    """At which update trials that were stopped early are ranked; None without any."""
    shared = shared_step(report)
    if shared is None or not any(row.stopped_early for row in report.trials):
        return None
    return f"stopped trials: ranked below the others, by their value after update {shared}"


def _by_movement(report: SweepReport, columns: Sequence[Column]) -> list[Column]:
    """Columns by how far the best trial moved them, relative to the untrained model's value; the farthest first."""
    best, base = report.best_row, next((row for row in report.rows if row.kind == "base"), None)

    def movement(column: Column) -> float:
        after, before = column.value(best) if best else None, column.value(base) if base else None
        return abs(after / before - 1) if after is not None and before else 0.0

    return sorted(columns, key=movement, reverse=True)


def write_csv(path: Path, report: SweepReport) -> Path:
    """Write one line per run: rank, kind, every parameter and every metric of the last evaluation."""
    paths = list(dict.fromkeys(name for row in report.rows for name in row.params))
    metrics = metric_names(report)
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["rank", "name", "kind", "label", "status", "update", "seed", "seconds", *paths, *metrics])
    for rank, row in ranking(report):
        params = [row.params.get(name, "") for name in paths]
        values = [row.value(name) for name in metrics]
        about = [row.name, row.kind, row.label, row.status, row.judged.get("step", ""), row.seed, row.seconds]
        writer.writerow([rank, *about, *params, *values])
    return write_text(path, file.getvalue())


def write_json(path: Path, report: SweepReport) -> Path:
    """Write the whole report, histories too; NaN and infinities become null."""
    return write_text(path, json.dumps(jsonable(asdict(report)), indent=2))


def _reward_column(reward: str) -> Column:
    """The reward that trials were trained on, or its rise where that is counted in standard deviations."""
    if reward == TRAINED_GAIN:
        return Column("gain (sd)", lambda row: None if row.kind == "base" else row.value(reward), deviations)
    return Column("reward", lambda row: row.value(reward), number)


def rank_text(rank: int | None, row: TrialRow) -> str:
    """The rank, or what kind of row it is that has none."""
    if rank is not None:
        return str(rank)
    return _NOTHING if row.kind == "trial" else row.kind


def status_text(row: TrialRow) -> str:
    """The status in one word; an alarm goes before all but a failure."""
    if row.alarms and not row.failed:
        return "alarm"
    return _STATUSES.get(row.status.partition(":")[0], row.status)


def jsonable(value: Any) -> Any:
    """What JSON can hold: NaN and infinities become null, all that is no plain value its text."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)
