"""Section on the Pareto front: trials that no other one beats in all objectives, as a table and as charts."""

from srpo_ray.evaluation.numbers import number, param_text, param_titles, signed
from srpo_ray.evaluation.ranking import varied_params
from srpo_ray.evaluation.results import Results, Search, TrialRow
from srpo_ray.reports.charts import Dot, Scatter
from srpo_ray.reports.report import Cell, Charts, Column, Part, Row, Section, Table, Text


def front_section(sweep: Results) -> Section | None:
    """The Pareto front of the first search of some results; None without objectives or without a trial on it.

    Args:
        sweep: Results of one search, see `Results.of`.
    """
    search = next((search for search in sweep.searches if search.front), None)
    if not sweep.objectives or search is None:
        return None
    directions = ", ".join(f"{metric} ({_better(mode)})" for metric, mode in sweep.objectives.items())
    limits = f" Trials that broke a limit ({len(search.breaking)}) are not on it." if search.breaking else ""
    text = Text(
        f"Each of these trials is the best in some way: no other one is at least as good in all of {directions} and"
        f" better in one. Trials that were stopped early do not count.{limits} The chosen trial is the best by"
        f" {sweep.objective}."
    )
    below = Text(
        "Dark dots: trials on the front of all objectives, which need not be on the edge of a chart of two. Faint dots:"
        " the others. Orange: a limit was broken. Dashed: the baseline."
    )
    parts: list[Part] = [text, front_table(sweep, search), Charts(front_charts(sweep, search), size="medium"), below]
    return Section("Pareto front", parts)


def _better(mode: str) -> str:
    return "higher is better" if mode == "max" else "lower is better"


def front_table(sweep: Results, search: Search) -> Table:
    """One row per trial on the front, the best objective first."""
    params = varied_params(sweep)
    titles = param_titles(params)
    columns = [
        Column("name", "run", numeric=False),
        *(Column(path, titles[path], param_text, False, path) for path in params),
        *(
            column
            for metric in sweep.objectives
            for column in (Column(metric, text=number), Column(_change(metric), "vs base", signed))
        ),
    ]
    sign = 1 if sweep.mode == "max" else -1
    rows = [row for row in search.rows if row.name in search.front]
    ordered = sorted(rows, key=lambda row: -sign * (row.value(sweep.objective) or 0.0))
    return Table(columns, [_row(sweep, search, row) for row in ordered], head="name")


def _change(metric: str) -> str:
    return f"change of {metric}"


def _row(sweep: Results, search: Search, row: TrialRow) -> Row:
    chosen = row.name == search.chosen
    values = {metric: row.value(metric) for metric in sweep.objectives}
    changes = {_change(metric): sweep.change(row, metric) for metric in sweep.objectives}
    name = Cell(row.name, "chosen" if chosen else "")
    return Row({**row.params, **values, **changes, "name": name}, "winner" if chosen else "")


def front_charts(sweep: Results, search: Search) -> list[Scatter]:
    """The objective against each of the others."""
    return [_chart(sweep, search, metric) for metric in sweep.objectives if metric != sweep.objective]


def _chart(sweep: Results, search: Search, metric: str) -> Scatter:
    dots = []
    for row in search.rows:
        x, y = row.value(metric), row.value(sweep.objective)
        if row.ended and x is not None and y is not None:
            hint = f"{row.name}: {row.label}\n{metric} {number(x)}, {sweep.objective} {number(y)}"
            on_front = row.name in search.front
            dots.append(Dot(x, y, row.name, hint, 0, _style(search, row), labelled=on_front))
    return Scatter(
        title=f"{sweep.objective} ({_better(sweep.mode)})",
        description=f"{sweep.objective} against {metric}",
        dots=dots,
        baseline=sweep.baseline(sweep.objective),
        x_title=f"{metric} ({_better(sweep.objectives[metric])})",
        size="medium",
    )


def _style(search: Search, row: TrialRow) -> str:
    if row.name == search.chosen:
        return "best"
    return "flagged" if row.name in search.breaking else "" if row.name in search.front else "faint"
