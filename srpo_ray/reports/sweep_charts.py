"""Charts of a sweep: Pareto plot, curves over updates, and the objective against each parameter."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from srpo_ray.evaluation.numbers import number, param_text, param_titles, signed
from srpo_ray.evaluation.pareto import pareto_front
from srpo_ray.evaluation.ranking import flagged, shared_step, shown_metrics, varied_params
from srpo_ray.evaluation.results import OWN_WORDS, TRAINED_GAIN, Results, TrialRow
from srpo_ray.reports.charts import Curves, Dot, Line, Point, Scatter

_CONTROL_WORDS, _QUERY = "algorithm.control_words", "algorithm.query"
_MOST_CURVES = 9
_LOG_RATIO = 8.0
"""Numeric parameters that span more than this factor are drawn on a logarithmic axis."""


def word_colors(sweep: Results) -> dict[str, int]:
    """Name of each set of control words -> the number of its colour; empty where no run names one."""
    words = [word for word in map(_words_of, sweep.rows) if word is not None]
    return {word: index for index, word in enumerate(dict.fromkeys(words))}


def _words_of(row: TrialRow) -> str | None:
    """Name of the set of control words that a row is trained on, or `no words`; None where it is unknown."""
    if row.params.get(_QUERY) == "plain":
        return "no words"
    return str(row.params[_CONTROL_WORDS]) if _CONTROL_WORDS in row.params else None


def _color_of(row: TrialRow, colors: Mapping[str, int]) -> int:
    """Number of a row's colour; one for all where control words are unknown."""
    return colors.get(_words_of(row) or "", 0)


def pareto_chart(sweep: Results) -> Scatter | None:
    """Gain of the trained reward against the held-out score, which separates learning from reward hacking.

    Trials, ablations, the baseline and the trials' front; None if no run has both numbers.
    """
    base, runs = sweep.baseline(sweep.objective), _both_scores(sweep)
    if not runs or base is None:
        return None
    sign = 1 if sweep.mode == "max" else -1
    trials = [(gain, value) for row, gain, value in runs if row.kind == "trial"]
    better = "higher is better" if sweep.mode == "max" else "lower is better"
    return Scatter(
        title="",
        description="Gain of the trained reward against the held-out score",
        dots=[_pareto_dot(sweep, *run) for run in runs],
        baseline=base,
        baseline_hint=f"baseline: {sweep.objective} {number(base)}",
        origin=True,
        worse="low" if sweep.mode == "max" else "high",
        front=sorted(trials[index] for index in pareto_front([(gain, sign * value) for gain, value in trials])),
        x_title=_gain_title(sweep.reward),
        y_title=f"{sweep.objective} ({better})",
        size="wide",
    )


def pareto_update(sweep: Results) -> int | None:
    """The last update that all trials share if some were stopped early; None compares final evaluations."""
    return shared_step(sweep) if any(row.stopped_early for row in sweep.trials) else None


def _pareto_dot(sweep: Results, row: TrialRow, gain: float, value: float) -> Dot:
    kinds = {"best": row is sweep.best_row, "faint": row.kind == "ablation", "flagged": bool(row.signs)}
    style = " ".join(kind for kind, holds in kinds.items() if holds)
    hint = f"{row.name}: {row.label}\nreward {signed(gain)}, held-out {number(value)}"
    return Dot(gain, value, row.name, hint, _color_of(row, word_colors(sweep)), style, labelled=True)


def _both_scores(sweep: Results) -> list[tuple[TrialRow, float, float]]:
    """Trials and ablations with their gain of the trained reward and their objective, at `pareto_update`."""
    runs = [row for row in sweep.rows if row.kind in ("trial", "ablation") and not row.failed]
    update, found = pareto_update(sweep), []
    for row in runs:
        value = row.value(sweep.objective) if update is None else row.value_at(sweep.objective, update)
        gain = sweep.change(row, sweep.reward, update)
        if gain is not None and value is not None:
            found.append((row, gain, value))
    return found


def _gain_title(reward: str) -> str:
    if reward == TRAINED_GAIN:
        return "rise of each run's own trained reward, in standard deviations"
    return f"gain of {reward} over the baseline"


def curve_charts(sweep: Results) -> list[Curves]:
    """Trials over updates: objective, reward, then truth and other held-out metrics."""
    order = ("truth/", "evaluator/", "reward/", "image/")
    names = shown_metrics(sweep)
    first = [name for name in (sweep.objective, sweep.reward) if name in names]
    # Scores for a run's own control words have another zero in every run, so they share no axis; their gain does.
    skipped = [*first, OWN_WORDS] if sweep.reward == TRAINED_GAIN else first
    others = [name for prefix in order for name in names if name.startswith(prefix) and name not in skipped]
    charts = [_curves(sweep, name) for name in first + others]
    return [chart for chart in charts if chart is not None][:_MOST_CURVES]


def _curves(sweep: Results, metric: str) -> Curves | None:
    """The metric over updates: trials light, the best strong, the baseline dashed; None if it never moved."""
    curves = [(row, _pieces(row, metric)) for row in sweep.trials]
    points = [point for _, pieces in curves for piece in pieces for point in piece]
    if len({step for step, _ in points}) < 2 or len({value for _, value in points}) < 2:
        return None
    warned, best = flagged(sweep), sweep.best_row
    lines = []
    for row, pieces in sorted(curves, key=lambda curve: curve[0] is best):
        style = "best" if row is best else "flagged" if row in warned else ""
        lines.append(Line(row.name, pieces, style, f"{row.name}: {row.label}", ended=row is best))
    return Curves(metric, f"{metric} over updates", lines, baseline=sweep.baseline(metric))


def _pieces(row: TrialRow, metric: str) -> list[list[Point]]:
    """(update, value) in runs without a gap; a missing, NaN or infinite value is a gap."""
    pieces: list[list[Point]] = [[]]
    for evaluation in row.history:
        step, value = evaluation.get("update"), evaluation.get(metric)
        if step is not None and value is not None and math.isfinite(value):
            pieces[-1].append((step, value))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def comparable_scores(sweep: Results) -> list[tuple[TrialRow, float]]:
    """Trials and their objective after as many updates, the most that all share; without failed trials."""
    shared = shared_step(sweep)
    rows = [row for row in sweep.trials if not row.failed]
    return [(row, score) for row in rows if (score := row.value_at(sweep.objective, shared)) is not None]


def slice_charts(sweep: Results) -> list[Scatter]:
    """The objective against each parameter that differs between trials; of the trials in which it was searched."""
    paths, scored = varied_params(sweep), comparable_scores(sweep)
    titles = param_titles(paths)
    groups = {path: [(row, score) for row, score in scored if path in row.params] for path in paths}
    return [_slice(sweep, group, path, titles[path]) for path, group in groups.items() if len(group) > 1]


def _slice(sweep: Results, scored: Sequence[tuple[TrialRow, float]], path: str, title: str) -> Scatter:
    places, names, log = _places([row.params.get(path) for row, _ in scored])
    colors = word_colors(sweep)
    dots = []
    for (row, score), place in zip(scored, places, strict=True):
        hint = f"{row.name}: {param_text(row.params.get(path))} → {number(score)}"
        style = "best" if row is sweep.best_row else ""
        dots.append(Dot(place, score, row.name, hint, _color_of(row, colors), style))
    description = f"{sweep.objective} against {path}"
    base = sweep.baseline(sweep.objective)
    return Scatter(title, description, dots, baseline=base, names=names, log=log, means=bool(names))


def _places(values: Sequence[Any]) -> tuple[list[float], list[str], bool]:
    """Places of a parameter's values on their axis, names in the order of the axis or none, and True if logarithmic."""
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) == len(values):
        return numbers, [], min(numbers) > 0 and max(numbers) / min(numbers) > _LOG_RATIO
    texts = [param_text(value) for value in values]
    names = sorted(set(texts), key=lambda text: _sort_key(values[texts.index(text)]))
    return [float(names.index(text)) for text in texts], names, False


def _sort_key(value: Any) -> tuple[int, Any]:
    if isinstance(value, list | tuple) and all(isinstance(item, int | float) for item in value):
        return (0, tuple(value))
    return (1, param_text(value))
