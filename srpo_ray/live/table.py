"""Table of runs in progress for a terminal."""

import re
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from srpo_ray.evaluation.numbers import number, signed
from srpo_ray.live.lines import duration, elapsed, summary
from srpo_ray.live.view import RunView, View

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_FRAME = 8
"""Lines of the terminal around the rows: title, heading, rule, omitted runs, summary and the prompt."""
_STYLES = {"done": "green", "failed": "red", "interrupted": "yellow"}
_STYLES |= dict.fromkeys(("waiting", "stopped early", "not started"), "dim")
_ORDER = ("running", "interrupted", "failed", "done", "stopped early", "not started", "waiting")
"""Statuses by the order in which runs keep their place in a terminal that is too low for all."""
_HACKING = "dark_orange"


def view_table(view: View, height: int, details: Sequence[str] = ()) -> RenderableType:
    """Build the table of all runs and a line with their numbers.

    Args:
        view: State of the runs.
        height: Lines of the terminal. Runs that do not fit are left out: waiting ones first, then ended ones.
        details: Further lines below the table.
    """
    progress = view.progress
    phase = f": {progress.phase}" if progress.phase else ""
    title = f"{progress.title}{phase}, {elapsed(progress)}"
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, title_justify="left")
    table.title = plain_text(title)
    shown = fitting(view.runs, height - _FRAME - len(details))
    rows = [_cells(view, run) for run in shown]
    # Without the column of the time left, an ended experiment has room for the digits of its settings.
    columns = [
        name for name in dict.fromkeys(name for row in rows for name in row) if any(row.get(name) for row in rows)
    ]
    for column in columns:
        table.add_column(plain_text(column), no_wrap=True)
    for run, row in zip(shown, rows, strict=True):
        table.add_row(*(plain_text(row.get(column, "")) for column in columns), style=_style(run))
    left_out = len(view.runs) - len(shown)
    lines = [f"... and {left_out} more runs"] if left_out else []
    lines += [summary(view)] if progress.kind == "experiment" or progress.facts else []
    parts: list[RenderableType] = [table] if rows else [plain_text(f"{title}: starting")]
    return Group(*parts, *map(plain_text, [*lines, *details]))


def fitting(runs: Sequence[RunView], number_of_rows: int) -> list[RunView]:
    """Choose the runs that a table of so many rows shows, in their own order."""
    if len(runs) <= number_of_rows:
        return list(runs)
    by_status = sorted(range(len(runs)), key=lambda index: _ORDER.index(runs[index].state.status))
    return [runs[index] for index in sorted(by_status[: max(number_of_rows, 1)])]


def _cells(view: View, run: RunView) -> Mapping[str, str]:
    """Title of each column -> text of one run."""
    alone = view.progress.kind == "run"
    settings = {} if alone else run.state.settings
    row = {"run": run.name, **settings, "update": f"{run.update}/{run.state.num_updates}"}
    if alone:
        row |= {name.removeprefix("reward/total/") + " reward": number(value) for name, value in run.rewards.items()}
    for metric, title in zip(view.progress.metrics, _titles(view.progress.metrics), strict=True):
        row[title] = number(run.value(metric))
        # Titles are keys, so each metric needs one of its own.
        row["since update 0" if metric == view.progress.metrics[0] else f"{title} since update 0"] = signed(
            run.change(metric)
        )
    row["left"] = "" if run.seconds_left is None else duration(run.seconds_left)
    row["state"] = _state(run)
    return row


def _titles(metrics: Sequence[str]) -> list[str]:
    """Last parts of the names, or whole names if two have the same last part."""
    last = [metric.rpartition("/")[2] for metric in metrics]
    return last if len({*last}) == len(last) else list(metrics)


def _state(run: RunView) -> str:
    status = run.activity if run.activity and run.state.status == "running" else run.state.status
    return f"{status}{', hacking' if run.signs else ''}"


def _style(run: RunView) -> str:
    return _HACKING if run.signs and run.state.status != "failed" else _STYLES.get(run.state.status, "")


def plain_text(content: str) -> Text:
    """The content as it is: no markup of rich, and no control character that moves the cursor."""
    return Text(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", content), overflow="ellipsis", no_wrap=True)
