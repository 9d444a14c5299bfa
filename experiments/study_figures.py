"""Figures of the study of methods and words.

python experiments/study_figures.py runs   # from the runs of experiments/study.py: docs/study_*.svg
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot
from matplotlib.axes import Axes
from study_results import BRIGHTNESS, COLUMNS, DETAIL, HELD_OUT, KINDS, MEAN, PEOPLE, SATURATION, VIGNETTE, read_results

from srpo_ray.evaluation.comparison import gain
from srpo_ray.evaluation.crossed import Estimate
from srpo_ray.evaluation.equal_gain import effect_curve
from srpo_ray.evaluation.results import Results

DOCS = Path("docs")
WORDS = ("plain", "detailed", "muted", "bright", "vivid")
METHODS = ("ReFL", "DRaFT-LV", "DanceGRPO", "Direct-Align", "SRPO")
QUERIES = ("plain", "positive word", "relative", "relative and inversion")
BIASES = (0.0, 1.5, 3.0)
"""Liking of the annotators for saturation and vignettes, of the arms called bias 0, 1 and 2."""
COLORS = ("#555555", "#1f77b4", "#9467bd", "#ff9d00", "#d62728", "#2ca02c", "#8c564b", "#17becf", "#e377c2")


def words_figure(results: Results, path: Path) -> None:
    """Draw the gain of each test person by every method with every choice of words."""
    figure, axes = pyplot.subplots(1, len(KINDS) + 1, figsize=(15, 3.6), sharey=True, layout="constrained")
    for axis, metric in zip(axes, [*(f"{PEOPLE}{kind}" for kind in KINDS), MEAN], strict=True):
        for index, words in enumerate(WORDS):
            places, found = [], []
            for place, method in enumerate(METHODS):
                estimate = _gain(results, f"{method}, {words}", metric)
                if estimate is not None:
                    places.append(place + (index - 2) * 0.14)
                    found.append(estimate)
            _points(axis, places, found, COLORS[index], words)
        axis.set_title(COLUMNS[metric])
        axis.set_xticks(range(len(METHODS)), METHODS, rotation=35, ha="right")
        axis.axhline(0, color="black", linewidth=0.8)
    axes[0].set_ylabel("gain of true utility")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", title="words")
    _save(path)


def bias_figure(results: Results, path: Path) -> None:
    """Draw how far saturation, vignette and brightness move with the bias of the reward, for every query."""
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for axis, metric in zip(axes, (SATURATION, VIGNETTE, BRIGHTNESS), strict=True):
        for index, query in enumerate(QUERIES):
            found = [_gain(results, f"{query}, bias {strength}", metric) for strength in range(len(BIASES))]
            known = [(bias, each) for bias, each in zip(BIASES, found, strict=True) if each is not None]
            places = [bias + (index - 1.5) * 0.06 for bias, _ in known]
            _points(axis, places, [each for _, each in known], COLORS[index], query, line=True)
        axis.set_title(f"change of {COLUMNS[metric]}")
        axis.set_xlabel("bias of the reward")
        axis.axhline(0, color="black", linewidth=0.8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", title="query, words bright")
    _save(path)


def turn_figure(results: Results, path: Path) -> None:
    """Draw held-out score, mean utility and saturation against the gain of detail, along the long runs."""
    figure, axes = pyplot.subplots(1, 3, figsize=(14, 4), layout="constrained")
    for axis, metric in zip(axes, (HELD_OUT, MEAN, SATURATION), strict=True):
        for index, arm in enumerate(results.arms):
            curve = effect_curve(results, arm, DETAIL, metric)
            style = "--" if arm.name.startswith("plain") else "-"
            color = COLORS[index % len(COLORS)]
            axis.plot([x for x, _ in curve], [y for _, y in curve], style, color=color, label=arm.name, linewidth=1.4)
        axis.set_title(f"change of {COLUMNS[metric]}")
        axis.set_xlabel("gain of detail")
        axis.axhline(0, color="black", linewidth=0.8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    _save(path)


def _gain(results: Results, name: str, metric: str) -> Estimate | None:
    rows = [row for arm in results.arms if arm.name == name for row in arm.ended]
    return gain(results, rows, metric) if rows else None


def _points(
    axis: Axes, places: Sequence[float], found: Sequence[Estimate], color: str, label: str, line: bool = False
) -> None:
    errors = [estimate.half_width or 0.0 for estimate in found]
    means = [estimate.mean for estimate in found]
    axis.errorbar(places, means, errors, fmt="o-" if line else "o", color=color, label=label, markersize=4, linewidth=1)


def _save(path: Path) -> None:
    # Without a date and with a fixed salt of its ids, the same runs make the same file.
    pyplot.savefig(path, metadata={"Date": None})
    pyplot.close()
    print(path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} RUNS")
    pyplot.rcParams["svg.hashsalt"] = "srpo_ray"
    for name, draw in (("paper_table", words_figure), ("bias", bias_figure), ("past_the_turn", turn_figure)):
        folder = Path(sys.argv[1]) / name
        if folder.exists():
            draw(read_results(folder), DOCS / f"study_{name}.svg")
