"""The sweep as one HTML page that needs nothing else: no network, no other file."""

import math
from pathlib import Path
from typing import Any

from srpo_ray.evaluation.alarm import alarm_texts
from srpo_ray.evaluation.importance import MINIMUM_TRIALS, permutation_p, variance_explained
from srpo_ray.evaluation.numbers import number, param_text, param_titles
from srpo_ray.evaluation.results import (
    CONTENT_ACCURACY,
    OWN_WORDS,
    TRAINED_GAIN,
    SweepReport,
    TrialRow,
    alarmed,
    metric_names,
    ranking,
    shared_step,
    varied_params,
)
from srpo_ray.evaluation.seeds import OverSeeds
from srpo_ray.files import write_text
from srpo_ray.reports.headline import alarm_notice, cards, headline, over_seeds
from srpo_ray.reports.html import embedded, render
from srpo_ray.reports.pareto import pareto_figure, word_colors
from srpo_ray.reports.sweep_charts import comparable_scores, curve_figures, slice_figures
from srpo_ray.reports.sweep_table import Column, metric_columns, param_columns, rank_text, status_text

__all__ = ["SweepReport", "TrialRow", "write_report"]

_MEANINGS = {
    CONTENT_ACCURACY: "share of colour, shape and background that are as the prompt says, from pixels",
    TRAINED_GAIN: "rise of the reward that the run itself was trained to raise (for its control words, or for the plain"
    " prompt), in standard deviations over the untrained model's images",
    OWN_WORDS: "the trained reward of the run's positive control words minus that of the negative ones",
    "image/diversity": "mean difference between pictures of one prompt; a fall means that all seeds look alike",
    "panel/": "score by a model that no trial was trained on; higher is better",
    "reward/": "score by a model that trials were trained on, for the panel's images and the plain prompt; a run with"
    " control words is trained on their difference instead",
    "truth/": "measured from pixels, exactly, because the pictures' content is known",
    "image/": "statistic of the pixels; neither good nor bad, but a large move shows a new style or a hack",
}


def write_report(path: Path, sweep: SweepReport) -> Path:
    """Write the report as one HTML file and return its path.

    Missing parts, such as metrics, pictures, repeats or ablations, leave their section out or say so in it.

    Args:
        path: The file to write.
        sweep: What the sweep found.
    """
    return write_text(path, render("report.html", **_page(sweep)))


def _page(sweep: SweepReport) -> dict[str, Any]:
    """Everything that the template shows."""
    return {
        "sweep": sweep,
        "best": sweep.best_row,
        "headline": headline(sweep),
        "cards": cards(sweep),
        "alarm": alarm_notice(sweep),
        "table": _table(sweep),
        "shared": shared_step(sweep),
        "any_stopped": any(row.stopped_early for row in sweep.trials),
        "seeds": _seeds(sweep),
        "picture": _gallery(sweep.best_row),
        "alarmed_picture": next(((row, data) for row in alarmed(sweep) if (data := _gallery(row))), None),
        "pareto": pareto_figure(sweep),
        "in_deviations": sweep.reward == TRAINED_GAIN,
        "words": word_colors(sweep),
        "curves": curve_figures(sweep),
        "importance": _importance(sweep),
        "ablations": _ablations(sweep),
        "slices": slice_figures(sweep),
        "glossary": _glossary(sweep),
    }


def _table(sweep: SweepReport) -> dict[str, Any]:
    columns = [
        *param_columns(sweep),
        *metric_columns(sweep),
        *_budget_columns(sweep),
        Column("seed", lambda row: row.seed, str),
        Column("time", lambda row: row.seconds, _duration),
    ]
    rows = []
    for rank, row in ranking(sweep):
        cells = []
        for column in columns:
            value = column.value(row)
            cells.append({"text": column.text(value), "sort": _sort_value(value), "numeric": column.numeric})
        line = {"rank": rank_text(rank, row), "row": row, "cells": cells, "best": row is sweep.best_row}
        rows.append(line | {"status": status_text(row), "alarms": alarm_texts(row.alarms)})
    return {"columns": columns, "rows": rows}


def _budget_columns(sweep: SweepReport) -> list[Column]:
    """Updates behind a row's values and, where trials were stopped early, the objective where all compare."""
    shared = shared_step(sweep)
    columns = [Column("update", lambda row: row.judged.get("step"), param_text)]
    if shared is not None and any(row.stopped_early for row in sweep.trials):
        columns.append(Column(f"at {shared}", lambda row: row.value_at(sweep.objective, shared), number))
    return columns


def _sort_value(value: Any) -> str:
    if isinstance(value, list | tuple) and value:
        value = value[0]
    return "" if value is None else str(value)


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds) or seconds <= 0:
        return "-"
    hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"


def _gallery(row: TrialRow | None) -> str | None:
    return embedded(row.gallery) if row and row.gallery and row.gallery.is_file() else None


def _importance(sweep: SweepReport) -> dict[str, Any]:
    """Bars, the most important parameter first, and the trials and updates behind them; no bars for few trials."""
    trials, paths = comparable_scores(sweep), varied_params(sweep)
    found = {"bars": [], "count": len(trials), "least": MINIMUM_TRIALS, "varied": bool(paths)}
    if len(trials) < MINIMUM_TRIALS:
        return found
    scores = [score for _, score in trials]
    params = [{path: row.params.get(path) for path in paths} for row, _ in trials]
    titles = param_titles(paths)
    bars = []
    for path, share in variance_explained(params, scores).items():
        chance = None if share is None else permutation_p([trial[path] for trial in params], scores)
        bars.append({"path": path, "title": titles[path], "share": share, "chance": chance})
    bars.sort(key=lambda bar: -1 if bar["share"] is None else bar["share"], reverse=True)
    return found | {"bars": bars}


def _seeds(sweep: SweepReport) -> list[dict[str, Any]]:
    """The best trial's metrics over fresh seeds, beside the untrained model's; empty without repeats."""
    lines = []
    for metric in _headline_metrics(sweep):
        seeds, base = over_seeds(sweep, metric), sweep.baseline(metric)
        if seeds is not None:
            change = None if base is None else seeds.mean - base
            lines.append({"metric": metric, "base": base, "seeds": seeds, "change": change})
    return lines


def _headline_metrics(sweep: SweepReport) -> list[str]:
    """Objective, reward, content accuracy and the truths."""
    names = metric_names(sweep)
    metrics = [name for name in (sweep.objective, sweep.reward, CONTENT_ACCURACY) if name in names]
    return metrics + [name for name in names if name.startswith("truth/") and not name.endswith("_accuracy")]


def _ablations(sweep: SweepReport) -> dict[str, Any] | None:
    """The reference and each ablation: values and, for ablations, their difference from the reference.

    The reference is the mean of the best trial's repeats with other seeds, because the best trial was picked for its
    value. One more run of the same settings differs from it by at most `new_run_half_width` in 95% of cases; a larger
    difference is an effect. Without two repeats it is unknown how far seeds alone move a number: no verdict.
    """
    best, rows = sweep.best_row, [row for row in sweep.rows if row.kind == "ablation"]
    if best is None or not rows:
        return None
    metrics = _headline_metrics(sweep)
    repeats = {metric: over_seeds(sweep, metric) for metric in metrics}
    picked = {metric: OverSeeds.of([value] if (value := best.value(metric)) is not None else []) for metric in metrics}
    references = [repeats[metric] or picked[metric] for metric in metrics]
    lines = []
    for row in rows:
        cells = [_ablation_cell(row.value(metric), seeds) for metric, seeds in zip(metrics, references, strict=True)]
        lines.append({"row": row, "changed": _changed(row, best), "cells": cells})
    count = max((seeds.count for seeds in repeats.values() if seeds is not None), default=0)
    return {"metrics": metrics, "best": best, "references": references, "repeats": count, "lines": lines}


def _ablation_cell(value: float | None, reference: OverSeeds | None) -> dict[str, Any]:
    """A value, its difference from the mean of the repeats, and the verdict on it."""
    gap = None if value is None or reference is None else value - reference.mean
    return {
        "value": value,
        "difference": gap,
        "verdict": _verdict(gap, None if reference is None else reference.new_run_half_width),
    }


def _verdict(gap: float | None, reach: float | None) -> str:
    """`clear` beyond what seeds alone move, `within` inside it, empty where that is not known."""
    if gap is None or reach is None:
        return ""
    return "clear" if abs(gap) > reach else "within"


def _changed(row: TrialRow, best: TrialRow) -> str:
    """`path = value` for what differs from the best; a list and a tuple of the same values do not."""
    texts = {path: param_text(value) for path, value in row.params.items()}
    return ", ".join(
        f"{path} = {text}"
        for path, text in texts.items()
        if path not in best.params or text != param_text(best.params[path])
    )


def _glossary(sweep: SweepReport) -> list[tuple[str, str]]:
    meanings = []
    for name in metric_names(sweep):
        meaning = next((text for start, text in _MEANINGS.items() if name.startswith(start)), "")
        if name.endswith("/relative"):
            meaning = "the same score for the words of evaluation.relative, positive minus negative"
        if name == sweep.objective:
            meaning = f"what trials are ranked by: {meaning or 'a held-out score'}"
        meanings.append((name, meaning))
    return meanings
