"""Formatting of numbers, parameters and their short names for reports."""

from collections.abc import Sequence
from typing import Any

from srpo_ray.evaluation.crossed import Estimate

SHORT_TITLES = {
    "algorithm.control_words": "words",
    "algorithm.timestep_window": "window",
    "algorithm.interpolation_strength": "strength",
    "training.optimizer.lr": "lr",
}
"""Dotted config path -> its name in tables."""
_NOTHING = "-"


def number(value: float | None) -> str:
    """Format with four decimals below 10, fewer above, a power of ten for tiny and huge: `0.7123`, `12.35`, `3e-6`.

    Below 1e-12 it is the rounding error of a zero.
    """
    if value is None:
        return _NOTHING
    size = abs(value)
    if 1e-12 < size < 1e-4 or size >= 1e5:
        return param_text(float(value))
    return f"{value:.{4 if size < 10 else 2 if size < 1000 else 0}f}"


def signed(value: float | None) -> str:
    """Format a difference with its sign: `+0.0312`, `-0.0100`."""
    return _NOTHING if value is None else ("+" if value > 0 else "") + number(value)


def deviations(value: float | None) -> str:
    """Format a number of standard deviations with its sign: `+1.83`."""
    return _NOTHING if value is None else f"{value:+.2f}"


def half_width_text(estimate: Estimate | None) -> str:
    """Format half of the 95% interval: `± 0.0112`; empty where none is known."""
    return "" if estimate is None or estimate.half_width is None else f"± {number(estimate.half_width)}"


def gain_text(estimate: Estimate | None) -> str:
    """Format a difference with its 95% interval: `+0.0526 ± 0.0112`."""
    return _NOTHING if estimate is None else f"{signed(estimate.mean)} {half_width_text(estimate)}".rstrip()


def param_text(value: Any) -> str:
    """Format a parameter as in a paper: `3e-6`, `5-25`, `detailed`."""
    if isinstance(value, float):
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")
    if isinstance(value, list | tuple):
        items = [param_text(item) for item in value]
        return "-".join(items) if len(items) == 2 and not isinstance(value[0], str) else ", ".join(items)
    return _NOTHING if value is None else str(value)


def param_titles(paths: Sequence[str]) -> dict[str, str]:
    """Choose short titles: a usual name, else the end of the path, or the whole path if two would be equal."""
    short = {path: SHORT_TITLES.get(path, path.rpartition(".")[2]) for path in paths}
    names = list(short.values())
    return {path: title if names.count(title) == 1 else path for path, title in short.items()}
