"""Table of the gradient-quality study from the dot products of its methods."""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from gradient_methods import METHODS

from srpo_ray.evaluation.gradient_quality import (
    GradientDots,
    adam_gain,
    alignment,
    consistency,
    cosine_of_means,
    gain,
    signal_to_noise,
    updates_within,
    with_interval,
)

BUDGET = 2880
"""Velocity evaluations of the comparison at equal cost."""
STEP, RATE = 0.01, 1e-5
"""Length of an update's step in weight space, and learning rate of Adam, for the first-order gains."""
PER = 1000
"""Evaluations of the first-order gains."""


def _at_budget(statistic: Callable[[GradientDots, float], float], dots: GradientDots) -> float:
    return statistic(dots, updates_within(dots, BUDGET))


STATISTICS: Mapping[str, tuple[str, Callable[[GradientDots], float]]] = {
    "direction": ("direction", cosine_of_means),
    "consistency": ("consistency", consistency),
    "alignment": ("alignment", alignment),
    "alignment_at_budget": (f"alignment, {BUDGET} evaluations", partial(_at_budget, alignment)),
    "signal_to_noise_at_budget": (
        f"signal to noise, {BUDGET} evaluations",
        partial(_at_budget, lambda dots, updates: updates * signal_to_noise(dots)),
    ),
    "gain": ("gain, equal steps", lambda dots: gain(dots) * STEP * PER),
    "adam_gain": ("gain, Adam", lambda dots: adam_gain(dots) * RATE * PER),
}
"""Name -> title of its column and statistic."""


def dots_of(found: Mapping[str, Any]) -> GradientDots:
    """Read the dot products of a finished method."""
    arrays = {name: np.asarray(found[name]) for name in ("own", "cross", "reference", "scaled", "squares")}
    return GradientDots(**arrays, cost=found["cost"])


def rows_of(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compute the row of each finished method: every statistic with half of its 95% interval."""
    rows = []
    for name, each in found.items():
        row: dict[str, Any] = {"method": name, "family": METHODS[name].family}
        row |= {key: each[key] for key in ("images", "updates", "cost")}
        dots = dots_of(each)
        for key, (_, statistic) in STATISTICS.items():
            interval = with_interval(statistic, dots)
            row[key], row[f"{key}_half_width"] = _known(interval.value), _known(interval.half_width)
        rows.append(row)
    return rows


def _known(value: float) -> float | None:
    """JSON has no number for an unknown value."""
    return None if math.isnan(value) else value


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the rows as a Markdown table."""
    titles = ["", "images", "evaluations", "updates", *(title for title, _ in STATISTICS.values())]
    lines = [titles, ["---"] * len(titles)]
    for row in rows:
        numbers = [str(row["images"]), f"{row['cost']:.0f}", str(row["updates"])]
        lines.append([row["method"], *numbers, *(_cell(row[key], row[f"{key}_half_width"]) for key in STATISTICS)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: float | None, half_width: float | None) -> str:
    """Value to two digits of its interval; a value without one is not determined by the updates."""
    if value is None or half_width is None:
        return "not determined"
    digits = 3 if half_width == 0 else max(0, 1 - math.floor(math.log10(half_width)))
    return f"{value:.{digits}f} ± {half_width:.{digits}f}"
