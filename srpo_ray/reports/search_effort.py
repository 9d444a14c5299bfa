"""Section on how the values of arms were chosen: trials, ranges, chosen values, and values at the end of a range."""

from srpo_ray.evaluation.numbers import number, param_text
from srpo_ray.evaluation.results import CALLS, Arm, Results, Search
from srpo_ray.evaluation.search_range import SearchedValue
from srpo_ray.reports.report import NOTHING, Cell, Column, Part, Row, Section, Strong, Table, Text


def searches_section(report: Results) -> Section | None:
    """Effort of the search for every method, and the results of every grid."""
    if not report.searches:
        return None
    text = Text(
        "One run per trial, on a seed that no arm is trained with. ",
        Strong("Calls"),
        ": velocity evaluations of all trials together, those with gradient counted three times. Methods that are"
        " searched with fewer trials or a narrower range have had less chance to be at their best.",
    )
    return Section("How values were chosen", [text, effort_table(report), *_grids(report)])


def end_warning(report: Results) -> str | None:
    """A warning that names the values at the end of their range; None without any."""
    ends = [
        f"{search.arm}, {value.path} {param_text(value.chosen)} (searched: {range_text(value)}{_still(value)})"
        for search in report.searches
        for value in search.searched
        if value.at_the_end and not value.is_limit
    ]
    if not ends:
        return None
    return (
        f"Chosen at the end of the searched range, so a better value may lie beyond: {'; '.join(ends)}. The range may"
        " be too narrow: widen it and search again."
    )


def _still(value: SearchedValue) -> str:
    return f"; still at the end after {len(value.added)} added" if value.added else ""


def effort_table(report: Results) -> Table:
    """One row per method and searched value; a method without a search has a row that shows it."""
    columns = [
        Column("method", numeric=False),
        Column("trials"),
        Column("stopped", "of them stopped or failed"),
        Column("calls", text=lambda calls: NOTHING if calls is None else f"{calls:.0f}"),
        Column("value", numeric=False),
        Column("range", numeric=False),
        Column("chosen", numeric=False),
        Column("end", "at the end of its range", numeric=False),
    ]
    searches = {search.arm: search for search in report.searches}
    rows = [row for arm in report.methods for row in _effort_rows(arm, searches.get(arm.name))]
    return Table(columns, rows, head="method")


def _effort_rows(arm: Arm, search: Search | None) -> list[Row]:
    if search is None:
        return [Row({"method": arm.name, "trials": 0, "value": "no search of its own"})]
    effort = {
        "method": arm.name,
        "trials": len(search.rows),
        "stopped": sum(not (row.ended or row.unfinished) for row in search.rows),
        "calls": sum((row.history[-1].get(CALLS, 0.0) if row.history else 0.0) for row in search.rows),
    }
    values = [
        {
            "value": value.path,
            "range": range_text(value),
            "chosen": param_text(value.chosen),
            "end": "yes" if value.at_the_end else "no",
        }
        for value in search.searched
    ]
    return [Row(effort | value) for value in values or [{}]]


def range_text(value: SearchedValue) -> str:
    """Describe the searched values: `1e-6, 2e-6, 5e-6`, or `1e-6 to 1e-5, log`; added ones after the given ones."""
    if value.scale == "values":
        given = ", ".join(param_text(each) for each in value.tried if each not in value.added)
        return f"{given}; added: {', '.join(map(param_text, value.added))}" if value.added else given
    low, high = map(param_text, value.tried)
    return f"{low} to {high}{', log' if value.scale == 'log' else ''}"


def _grids(report: Results) -> list[Part]:
    """Every trial of every grid with its result, the chosen one bold."""
    grids = [search for search in report.searches if not search.drawn]
    text = Text(f"Bold: the best {report.objective} that keeps the limits of the experiment, whose values were chosen.")
    columns = [Column("method", numeric=False), Column("tried", numeric=False)]
    rows = [Row({"method": search.arm, "tried": Cell(_tried(report, search), style="long")}) for search in grids]
    return [text, Table(columns, rows, head="method")] if grids else []


def _tried(report: Results, search: Search) -> Text:
    spans: list[str] = []
    for row in search.rows:
        result = number(row.value(report.objective)) if row.ended else row.status
        added = any(row.params.get(value.path) in value.added for value in search.searched)
        text = f"{row.label}{' (added)' if added else ''} → {result}"
        spans += [", "] * bool(spans) + [Strong(text) if row.name == search.chosen else text]
    return Text(*spans)
