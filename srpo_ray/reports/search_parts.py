"""Sections on searches in parts: rungs and their costs, rounds of a population, and the schedule that was found."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from srpo_ray.evaluation.numbers import number, param_text, param_titles
from srpo_ray.evaluation.results import Results, Search
from srpo_ray.evaluation.search_parts import Member, RungResult
from srpo_ray.reports.charts import Curves, Line, Point
from srpo_ray.reports.report import NOTHING, Charts, Column, Row, Section, Table, Text


def promotion_section(report: Results, search: Search) -> Section | None:
    """Rungs of a search with promotion, and the updates and calls that it saved; None for other searches."""
    if not search.rungs:
        return None
    own = any(rung.changes for rung in search.rungs)
    text = Text(
        f"All {search.rungs[0].trials} trials were trained to the end of the first rung. The best of each rung"
        f" continued from their checkpoints, with weights and optimizer state. {saved_text(search.rungs)}"
        f"{' Scores of rungs with settings of their own do not compare with others.' if own else ''}"
    )
    columns = [
        Column("rung"),
        Column("updates", "up to update"),
        Column("trials"),
        Column("promoted", text=lambda count: str(count) if count else NOTHING),
        Column("made", "updates made"),
        Column("calls", text=_whole),
        Column("best", f"best {report.objective}", number),
        Column("changes", "of this rung only", numeric=False),
    ]
    rows = [
        Row(
            {
                "rung": index,
                "updates": rung.updates,
                "trials": rung.trials,
                "promoted": rung.promoted,
                "made": rung.made,
                "calls": rung.calls,
                "best": rung.best,
                "changes": ", ".join(f"{path} {param_text(value)}" for path, value in rung.changes.items()) or NOTHING,
            }
        )
        for index, rung in enumerate(search.rungs, 1)
    ]
    return Section("Promotion", [text, Table(columns, rows, head="rung"), Text(_reached(search))])


def saved_text(rungs: Sequence[RungResult]) -> str:
    """Updates and calls of all rungs as a share of those of as many trials that are all trained to the end.

    The calls of an update that was not made are those of an average update of the last rung.
    """
    made, whole = sum(rung.made for rung in rungs), rungs[0].trials * rungs[-1].updates
    text = f"They made {made} of the {whole} updates of as many whole trials ({made / whole:.0%})"
    last, calls = rungs[-1], sum(rung.calls for rung in rungs)
    if not last.made or not last.calls:
        return f"{text}."
    whole_calls = whole * last.calls / last.made
    return (
        f"{text}, with {calls:.0f} velocity evaluations; at those of an update in the last rung, whole trials would"
        f" take {whole_calls:.0f}, so {1 - calls / whole_calls:.0%} were saved."
    )


def _reached(search: Search) -> str:
    """The trials that ended in each rung. The name of a run ends with the rung that its trial reached."""
    by_rung: dict[str, list[str]] = {}
    for row in search.rows:
        trial, _, rung = row.name.rpartition("_rung_")
        by_rung.setdefault(rung, []).append(trial)
    ended = [f"rung {rung}: {', '.join(trials)}" for rung, trials in sorted(by_rung.items())]
    return f"Last rung of each trial, with the costs of all its rungs in the table of runs. {'; '.join(ended)}."


def _whole(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0f}"


def schedule_section(report: Results, search: Search) -> Section | None:
    """Values of the chosen trial by round, and of all trials as curves; None for searches without rounds."""
    if not search.rounds:
        return None
    copies = sum(member.copied for part in search.rounds for member in part.members)
    text = Text(
        f"{len(search.rounds[0].members)} trials were trained in {len(search.rounds)} rounds; between"
        f" them, {copies} {'copy was' if copies == 1 else 'copies were'} made of the weights and optimizer state of a"
        " better trial, with perturbed values. The table follows the chosen trial back to the first round."
        " schedule.yaml contains its values and trains them again with other seeds."
    )
    paths = list(search.lineage[0].values)
    charts = [chart for path in paths if (chart := _value_chart(search, path)) is not None]
    return Section("Schedule", [text, _schedule_table(report, search, paths), *([Charts(charts)] if charts else [])])


def _schedule_table(report: Results, search: Search, paths: Sequence[str]) -> Table:
    titles = param_titles(paths)
    columns = [
        Column("round"),
        Column("updates", "up to update"),
        *(Column(path, titles[path], param_text, False, path) for path in paths),
        Column("objective", report.objective, number),
        Column("run", numeric=False),
        Column("source", "continued from", numeric=False),
    ]
    rows = [
        Row(
            {
                "round": index,
                "updates": part.updates,
                **member.values,
                "objective": member.objective,
                "run": member.name,
                "source": f"{member.source} (copied)" if member.copied else member.source,
            }
        )
        for index, (part, member) in enumerate(zip(search.rounds, search.lineage, strict=True), 1)
    ]
    return Table(columns, rows, head="round")


def _value_chart(search: Search, path: str) -> Curves | None:
    """A value over updates: the chosen trial's schedule strong, the other trials light; None if it is no number."""
    lines = [_line(search, [part.members[trial] for part in search.rounds], path, "") for trial in _others(search)]
    lines.append(_line(search, search.lineage, path, "best"))
    if any(line is None for line in lines):
        return None
    title = param_titles([path])[path]
    return Curves(title, f"{path} over updates", [line for line in lines if line is not None], x_title="updates")


def _others(search: Search) -> range:
    return range(len(search.rounds[0].members))


def _line(search: Search, members: Sequence[Member], path: str, style: str) -> Line | None:
    """A step of each round's value from the end of the round before it to its own end."""
    values = [member.values[path] for member in members]
    if not all(_is_number(value) for value in values):
        return None
    ends = [0, *(part.updates for part in search.rounds)]
    points: list[Point] = [
        (update, value) for value, span in zip(values, pairwise(ends), strict=True) for update in span
    ]
    return Line(members[-1].name, [points], style, members[-1].name, ended=style == "best")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
