"""The sweep as one HTML page that needs nothing else: no network, no other file."""

import base64
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import jinja2

from srpo_ray.evaluation.figures import curve_figures, pareto_figure, slice_figures, word_colors
from srpo_ray.evaluation.importance import variance_explained
from srpo_ray.evaluation.results import (
    CONTENT_ACCURACY,
    SweepReport,
    TrialRow,
    hacked,
    metric_names,
    ranking,
    varied_params,
)
from srpo_ray.evaluation.table import (
    Column,
    metric_columns,
    number,
    param_columns,
    param_text,
    param_titles,
    rank_text,
    signed,
    write_text,
)

__all__ = ["SweepReport", "TrialRow", "write_report"]

_TEMPLATES = Path(__file__).with_name("templates")

_MEANINGS = {
    "panel/": "score by a model that no trial was trained on; higher is better",
    "reward/": "score by a reward model on the panel's pictures with the plain prompt; trials were trained to raise it",
    "truth/": "measured from pixels, exactly, because the pictures' content is known",
    "image/": "statistic of the pixels, of no quality by itself; a large move shows a change of style or a hack",
}


def write_report(path: Path, sweep: SweepReport) -> Path:
    """Write the report as one HTML file and return its path.

    Missing parts, such as metrics, pictures, repeats or ablations, leave their section out or say so in it.

    Args:
        path: The file to write.
        sweep: What the sweep found.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": number, "signed": signed}
    return write_text(path, environment.get_template("report.html").render(_page(sweep)))


def _page(sweep: SweepReport) -> dict[str, Any]:
    """Everything that the template shows."""
    return {
        "sweep": sweep,
        "best": sweep.best_row,
        "headline": _headline(sweep),
        "cards": _cards(sweep),
        "hacking": _hacking(sweep),
        "table": _table(sweep),
        "picture": _embedded(sweep.best_row),
        "hacked_picture": next(((row, data) for row in hacked(sweep) if (data := _embedded(row))), None),
        "pareto": pareto_figure(sweep),
        "words": word_colors(sweep),
        "curves": curve_figures(sweep),
        "importance": _importance(sweep),
        "ablations": _ablations(sweep),
        "slices": slice_figures(sweep),
        "glossary": _glossary(sweep),
    }


@dataclass(frozen=True)
class _Seeds:
    """The best trial's objective over seeds."""

    count: int
    mean: float
    spread: float


def _seeds(sweep: SweepReport) -> _Seeds | None:
    repeats = [row for row in sweep.rows if row.kind == "repeat" and not row.failed]
    rows = repeats + ([sweep.best_row] if sweep.best_row and sweep.best_row not in repeats else [])
    values = [value for row in rows if (value := row.value(sweep.objective)) is not None]
    return _Seeds(len(values), mean(values), stdev(values)) if repeats and len(values) > 1 else None


def _headline(sweep: SweepReport) -> str:
    best = sweep.best_row
    if best is None or best.value(sweep.objective) is None:
        return f"No trial finished with a value of {sweep.objective}."
    improvement, value = sweep.improvement(best), number(best.value(sweep.objective))
    if improvement is None:
        return f"{best.name} won with {sweep.objective} {value}; there is no untrained model to compare with."
    if improvement <= 0:
        return f"No trial beat the untrained model. The closest was {best.name}, {number(-improvement)} worse."
    return f"{best.name} won: {number(improvement)} better than the untrained model on {sweep.objective}."


def _cards(sweep: SweepReport) -> list[dict[str, str]]:
    """Title, big number and small print of the figures at the top."""
    best, seeds = sweep.best_row, _seeds(sweep)
    cards = []
    if best is not None:
        shown = [(sweep.objective, "Held-out score"), (CONTENT_ACCURACY, "Content accuracy"), (sweep.reward, "Training reward")]
        for metric, title in shown:
            if best.value(metric) is not None:
                start, change = sweep.baseline(metric), sweep.change(best, metric)
                small = f"untrained {number(start)}, change {signed(change)}" if start is not None else metric
                cards.append({"title": title, "value": number(best.value(metric)), "small": small})
    if seeds is not None:
        small = f"mean ± standard deviation over {seeds.count} seeds"
        cards.insert(1, {"title": "Over seeds", "value": f"{number(seeds.mean)} ± {number(seeds.spread)}", "small": small})
    return cards


def _hacking(sweep: SweepReport) -> str | None:
    """A plain warning, or None when no run shows it."""
    rows = hacked(sweep)
    if not rows:
        return None
    examples = ", ".join(
        f"{row.name} (reward {signed(sweep.change(row, sweep.reward))}, held-out"
        f" {signed(sweep.change(row, sweep.objective))})"
        for row in rows[:4]
    )
    more = f" and {len(rows) - 4} more" if len(rows) > 4 else ""
    runs = "one run" if len(rows) == 1 else f"{len(rows)} runs"
    return (
        f"Reward hacking in {runs}: the training reward rose while the held-out score got worse, in {examples}{more}."
        " Such a run learned to please its reward model and not to make better pictures."
    )


def _table(sweep: SweepReport) -> dict[str, Any]:
    columns = [
        *param_columns(sweep),
        *metric_columns(sweep),
        Column("seed", lambda row: row.seed, str),
        Column("time", lambda row: row.seconds, _duration),
    ]
    rows = []
    for rank, row in ranking(sweep):
        cells = []
        for column in columns:
            value = column.value(row)
            cells.append({"text": column.text(value), "sort": _sort_value(value), "numeric": column.numeric})
        rows.append({"rank": rank_text(rank, row), "row": row, "best": row is sweep.best_row, "cells": cells})
    return {"columns": columns, "rows": rows}


def _sort_value(value: Any) -> str:
    if isinstance(value, list | tuple) and value:
        value = value[0]
    return "" if value is None else str(value)


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds) or seconds <= 0:
        return "–"
    hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"


def _embedded(row: TrialRow | None) -> str | None:
    """The row's gallery as the text of a data URI."""
    if row is None or row.gallery is None or not row.gallery.is_file():
        return None
    return base64.b64encode(row.gallery.read_bytes()).decode()


def _importance(sweep: SweepReport) -> dict[str, Any]:
    paths = varied_params(sweep)
    scored = [(row, value) for row in sweep.trials if not row.failed and (value := row.value(sweep.objective)) is not None]
    shares = variance_explained(
        [{path: row.params.get(path) for path in paths} for row, _ in scored], [value for _, value in scored]
    )
    titles = param_titles(paths)
    bars = [
        {"path": path, "title": titles[path], "share": share}
        for path, share in sorted(shares.items(), key=lambda item: -1 if item[1] is None else item[1], reverse=True)
    ]
    return {"bars": bars, "count": len(scored)}


def _ablations(sweep: SweepReport) -> dict[str, Any] | None:
    """The best and each ablation: what was changed, and values with their difference from the best."""
    best, rows = sweep.best_row, [row for row in sweep.rows if row.kind == "ablation"]
    if best is None or not rows:
        return None
    seeds = _seeds(sweep)
    metrics = [m for m in dict.fromkeys((sweep.objective, sweep.reward, CONTENT_ACCURACY)) if m in metric_names(sweep)]
    metrics += [m for m in metric_names(sweep) if m.startswith("truth/") and not m.endswith("_accuracy")]
    lines = []
    for row in [best, *rows]:
        cells = []
        for metric in metrics:
            value, reference = row.value(metric), best.value(metric)
            difference = None if row is best or value is None or reference is None else value - reference
            small = seeds is not None and metric == sweep.objective and abs(difference or 0) <= 2 * seeds.spread
            cells.append({"value": value, "difference": difference, "within": small})
        lines.append({"row": row, "changed": _changed(row, best), "cells": cells})
    return {"metrics": metrics, "lines": lines, "spread": None if seeds is None else seeds.spread}


def _changed(row: TrialRow, best: TrialRow) -> str:
    if row is best:
        return ""
    paths = [path for path in row.params if row.params[path] != best.params.get(path)]
    return ", ".join(f"{path} = {param_text(row.params[path])}" for path in paths)


def _glossary(sweep: SweepReport) -> list[tuple[str, str]]:
    special = {sweep.objective: "what trials are ranked by: " + _MEANINGS["panel/"], CONTENT_ACCURACY: "share of colour, shape and background that are as the prompt says, measured from pixels"}
    special[sweep.reward] = "the reward that trials were trained to raise"
    meanings = []
    for name in metric_names(sweep):
        known = next((meaning for prefix, meaning in _MEANINGS.items() if name.startswith(prefix)), "")
        meanings.append((name, special.get(name, known)))
    return meanings
