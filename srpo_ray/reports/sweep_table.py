"""The table of all runs of an experiment: for its page, the terminal and the CSV file."""

import math
from collections.abc import Sequence
from typing import Any

from srpo_ray.evaluation.numbers import SHORT_TITLES, deviations, number, param_text, param_titles, signed
from srpo_ray.evaluation.ranking import metric_names, ranking, shared_step, shown_metrics, varied_params
from srpo_ray.evaluation.results import CONTENT_ACCURACY, MEAN_UTILITY, TRAINED_GAIN, Results, TrialRow
from srpo_ray.reports.report import NOTHING, Cell, Column, Row, Table

_MOST_TERMINAL_PARAMS = 4
_STATUSES = {"finished": "done", "stopped early": "stopped", "failed": "failed"}
_ABOUT = ("rank", "name", "kind", "label", "status", "update", "seed", "seconds")


def runs_table(sweep: Results) -> Table:
    """All runs, the best objective first.

    Ranks count trials; the baseline, repeats and ablations stand where their value puts them. The terminal shows at
    most four parameters and, beside content accuracy, the truth that the best trial moved most; the page all
    parameters that differ, the objective, the trained reward and all truths; the CSV file everything.
    """
    paths = [path for path in dict.fromkeys(name for row in sweep.rows for name in row.params) if path not in _ABOUT]
    metrics, shared = metric_names(sweep), shared_step(sweep)
    stopped = any(row.stopped_early for row in sweep.trials)
    truths = [name for name in shown_metrics(sweep) if name.startswith("truth/") and not name.endswith("_accuracy")]
    content = [CONTENT_ACCURACY] * (CONTENT_ACCURACY in metrics)
    front = ["front"] * bool(sweep.objectives)
    varied = varied_params(sweep) if len(sweep.searches) == 1 else []
    params = [path for path in varied or SHORT_TITLES if path in paths]
    at_shared = ["at_shared"] * (stopped and shared is not None)
    scores = [sweep.objective, "change", "trained"]
    return Table(
        _columns(sweep, paths, params, metrics, shared),
        [_row(sweep, place, rank, row, shared) for place, (rank, row) in enumerate(ranking(sweep))],
        head="name",
        title=sweep.title,
        caption=_stopped_note(shared) if stopped and shared is not None else "",
        page=["place", "name", *params, *scores, *truths, *content, "update", *at_shared, "seed", "seconds", "state"],
        terminal=[
            *("rank", "name"),
            *params[:_MOST_TERMINAL_PARAMS],
            *scores,
            *_most_moved(sweep, truths),
            *content,
            "state",
        ],
        file=[*_ABOUT, *front, *paths, *metrics],
        sortable=True,
    )


def _columns(
    sweep: Results, paths: Sequence[str], params: Sequence[str], metrics: Sequence[str], shared: int | None
) -> list[Column]:
    titles = param_titles(params)
    gain = sweep.reward == TRAINED_GAIN
    named = dict.fromkeys([*metrics, sweep.objective])
    return [
        Column("rank", "#"),
        Column("place", "rank", numeric=False),
        Column("name", "run", numeric=False, width=16),
        *(Column(key) for key in ("kind", "label", "status")),
        Column("state", "status", numeric=False, width=8),
        Column("update", text=param_text),
        Column("front"),
        Column("at_shared", f"at {shared}", number),
        Column("seed"),
        Column("seconds", "time", _duration),
        *(Column(path, titles.get(path, path), param_text, False, path, width=10) for path in paths),
        *(Column(name, _metric_title(name), number, hint=name, width=10) for name in named),
        Column("change", "vs base", signed, hint=f"{sweep.objective} minus the baseline's", width=10),
        Column(
            "trained",
            "gain (sd)" if gain else "reward",
            deviations if gain else number,
            hint=sweep.reward,
            width=10,
        ),
    ]


def _row(sweep: Results, place: int, rank: int | None, row: TrialRow, shared: int | None) -> Row:
    of_base = row.kind == "base"
    cells: dict[str, Any] = {
        "rank": rank,
        "place": Cell(rank_text(rank, row), place=place),
        "name": Cell(row.name, "" if row.kind == "trial" else row.label),
        "kind": row.kind,
        "label": row.label,
        "status": row.status,
        "state": status_text(row),
        "update": row.evaluated.get("update"),
        "at_shared": row.value_at(sweep.objective, shared),
        "seed": row.seed,
        "front": _on_front(sweep, row),
        "seconds": row.seconds,
        "change": None if of_base else sweep.change(row, sweep.objective),
        "trained": None if of_base and sweep.reward == TRAINED_GAIN else row.value(sweep.reward),
    }
    metrics = {name: row.value(name) for name in (*metric_names(sweep), sweep.objective)}
    kinds = {"winner": row is sweep.best_row, "failed": row.failed, "flagged": bool(row.signs)}
    style = " ".join([row.kind, *(kind for kind, holds in kinds.items() if holds)])
    return Row({**row.params, **metrics, **cells}, style)


def _on_front(sweep: Results, row: TrialRow) -> bool | None:
    """True for a trial on the Pareto front of its search; None for a row that is no trial."""
    return any(row.name in search.front for search in sweep.searches) if row.kind == "trial" else None


def _metric_title(metric: str) -> str:
    return {CONTENT_ACCURACY: "content", MEAN_UTILITY: "utility"}.get(metric, metric.rpartition("/")[2])


def _most_moved(sweep: Results, metrics: Sequence[str]) -> list[str]:
    """The metric that the best trial moved farthest, relative to the baseline's value; empty without metrics."""
    best, base = sweep.best_row, next((row for row in sweep.rows if row.kind == "base"), None)

    def movement(metric: str) -> float:
        after, before = best.value(metric) if best else None, base.value(metric) if base else None
        return abs(after / before - 1) if after is not None and before else 0.0

    return sorted(metrics, key=movement, reverse=True)[:1]


def _stopped_note(shared: int) -> str:
    return f"stopped trials: ranked below the others, by their value after update {shared}"


def rank_text(rank: int | None, row: TrialRow) -> str:
    """The rank, or what kind of row it is that has none."""
    if rank is not None:
        return str(rank)
    return NOTHING if row.kind == "trial" else row.kind


def status_text(row: TrialRow) -> str:
    """The status in one word; detected reward hacking goes before all but a failure."""
    if row.signs and not row.failed:
        return "hacking"
    return _STATUSES.get(row.status.partition(":")[0], row.status)


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds) or seconds <= 0:
        return NOTHING
    hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"
