"""Pareto front of trials with several objectives, and the hypervolume that it dominates."""

from collections.abc import Mapping, Sequence
from typing import Literal

from srpo_ray.evaluation.results import TrialRow


def pareto_front(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the points that no other point dominates, where larger is better, in the given order.

    A point dominates another if it is at least as large in every coordinate and larger in one. Equal points do not
    dominate each other.

    Args:
        points: Finite coordinates of N points, the same number for each.
    """
    return [
        index
        for index, point in enumerate(points)
        if not any(_dominates(other, point) for other in points if other is not point)
    ]


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Compute the volume of the union of the boxes between a reference point and each point, where larger is better.

    The last coordinate is swept from the best value down: between two values, the points above form a union of boxes of
    one dimension less. The cost is exponential in the number of coordinates, and small for up to four.

    Args:
        points: Finite coordinates; a point that is not above the reference in every coordinate adds nothing.
        reference: Coordinates of the worst point that counts.
    """
    above = [point for point in points if all(a > b for a, b in zip(point, reference, strict=True))]
    if not above:
        return 0.0
    if len(reference) == 1:
        return max(point[0] for point in above) - reference[0]
    levels = sorted({point[-1] for point in above}, reverse=True)
    volume = 0.0
    for level, below in zip(levels, [*levels[1:], reference[-1]], strict=True):
        base = [point[:-1] for point in above if point[-1] >= level]
        volume += (level - below) * hypervolume(base, reference[:-1])
    return volume


def coordinates(row: TrialRow, objectives: Mapping[str, Literal["max", "min"]]) -> list[float] | None:
    """Values of the objectives of a trial, negative where lower is better; None if one of them is missing."""
    found = [(row.value(metric), 1 if mode == "max" else -1) for metric, mode in objectives.items()]
    values = [sign * value for value, sign in found if value is not None]
    return values if len(values) == len(found) else None


def front_names(rows: Sequence[TrialRow], objectives: Mapping[str, Literal["max", "min"]]) -> list[str]:
    """Names of the trials that ended and that no other one dominates; empty without objectives.

    Args:
        rows: Trials that may be on the front.
        objectives: Metric -> direction.
    """
    found = [(row.name, point) for row in rows if row.ended and (point := coordinates(row, objectives)) is not None]
    return [found[index][0] for index in pareto_front([point for _, point in found])] if objectives else []
