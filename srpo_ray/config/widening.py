"""Values beyond the ends of a grid, which the search of an arm adds while its best value is the first or the last."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

_DIGITS = 3
"""Significant digits of an added value; more where fewer would not go beyond the end."""


def check_widening(arm: str, grid: Mapping[str, Sequence[Any]]) -> None:
    """Check that the grid of an arm can be widened.

    Args:
        arm: Name of the arm, for messages.
        grid: Dotted config path -> values.

    Raises:
        ValueError: If it is not one path with two or more different numbers.
    """
    if len(grid) != 1:
        raise ValueError(
            f"expected a `grid` of one path beside `widen` in arm {arm!r}, got {', '.join(grid) or 'none'}; remove"
            " `widen`, or search one path only"
        )
    ((path, values),) = grid.items()
    others = [value for value in values if not _is_number(value)]
    if others:
        raise ValueError(
            f"expected numbers in the grid of {path} beside `widen` in arm {arm!r}, got {', '.join(map(repr, others))};"
            " other values have no order, so remove `widen`"
        )
    if len(set(values)) < 2:
        raise ValueError(
            f"expected two or more different numbers in the grid of {path} beside `widen` in arm {arm!r}, got"
            f" {list(values)}; their distance determines the next value, so add one or remove `widen`"
        )


def value_beyond(given: Sequence[float], added: Sequence[float], *, upper: bool) -> float:
    """Compute the next value beyond an end of a grid.

    It has the ratio of the last two values at that end if the given values are geometric, and their difference
    otherwise. Positive values are geometric if their ratios differ no more than their differences do, so two positive
    values are. The value is rounded to 3 significant digits. It is a whole number if all given values are.

    Args:
        given: Two or more different numbers, those of the file.
        added: Numbers that were added to them.
        upper: True for the largest value, false for the smallest.

    Returns:
        A number larger than all others, or smaller than all.
    """
    before, end = sorted({*given, *added}, reverse=not upper)[-2:]
    ratio = _is_geometric(given) and min(before, end) > 0
    exact, sign = (end * (end / before) if ratio else end + (end - before)), 1 if upper else -1
    if all(isinstance(value, int) for value in given):
        whole = round(float(f"{exact:.{_DIGITS}g}"))
        return whole if (whole - end) * sign > 0 else end + sign
    rounded = (float(f"{exact:.{digits}g}") for digits in range(_DIGITS, 18))
    return next((value for value in rounded if (value - end) * sign > 0), math.nextafter(end, sign * math.inf))


def _is_geometric(given: Sequence[float]) -> bool:
    values = sorted({*given})
    if values[0] <= 0:
        return False
    steps = [high - low for low, high in pairwise(values)]
    ratios = [math.log(high) - math.log(low) for low, high in pairwise(values)]
    return max(ratios) * min(steps) <= max(steps) * min(ratios)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
