"""Pareto front and hypervolume against brute force and Monte Carlo."""

import random
from dataclasses import replace

import pytest

from srpo_ray.evaluation.pareto import front_names, hypervolume, pareto_front
from srpo_ray.evaluation.results import TrialRow

Points = list[tuple[float, ...]]


def draws(source: random.Random, dimensions: int) -> Points:
    return [tuple(source.randint(0, 4) / 4 for _ in range(dimensions)) for _ in range(source.randint(0, 9))]


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_front_has_the_points_that_no_other_beats(dimensions: int) -> None:
    source = random.Random(dimensions)
    for _ in range(100):
        points = draws(source, dimensions)
        beaten = {
            index
            for index, point in enumerate(points)
            for other in points
            if other != point and all(a >= b for a, b in zip(other, point, strict=True))
        }
        assert pareto_front(points) == [index for index in range(len(points)) if index not in beaten]


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
def test_hypervolume_is_the_share_of_grid_cells_below_a_point(dimensions: int) -> None:
    """All points lie on a grid of quarters, so counting cells is exact."""
    source = random.Random(dimensions)
    for _ in range(30):
        points = draws(source, dimensions)
        cells = [tuple((index // 4**axis % 4 + 1) / 4 for axis in range(dimensions)) for index in range(4**dimensions)]
        below = sum(any(all(c <= p for c, p in zip(cell, point, strict=True)) for point in points) for cell in cells)
        assert hypervolume(points, (0.0,) * dimensions) == pytest.approx(below / 4**dimensions)


def test_points_below_the_reference_add_no_volume() -> None:
    assert hypervolume([(2.0, 0.5), (0.5, 2.0)], (1.0, 1.0)) == 0
    assert hypervolume([(2.0, 0.5), (3.0, 2.0)], (1.0, 1.0)) == 2


def test_front_counts_trials_that_ended_with_all_objectives_in_their_directions() -> None:
    def trial(name: str, held_out: float, drift: float | None, status: str = "finished") -> TrialRow:
        last = {"update": 9, "score": held_out} | ({} if drift is None else {"drift": drift})
        return TrialRow(name, "trial", name, {}, [last], status, 1.0, 0)

    rows = [
        trial("far", 0.9, 0.5),
        trial("near", 0.6, 0.1),
        trial("worse", 0.5, 0.2),
        trial("partial", 2.0, None),
        trial("stopped", 2.0, 0.0, "stopped early"),
    ]
    assert front_names(rows, {"score": "max", "drift": "min"}) == ["far", "near"]
    assert front_names([*rows, replace(rows[0], name="twin")], {"score": "max", "drift": "min"}) == [
        "far",
        "near",
        "twin",
    ]
    assert front_names(rows, {}) == []
