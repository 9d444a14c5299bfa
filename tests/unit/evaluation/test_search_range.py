"""Values at the end of their range."""

from typing import Any

import pytest

from srpo_ray.evaluation.search_range import SearchedValue


@pytest.mark.parametrize(
    ("tried", "scale", "chosen", "at_the_end"),
    [
        ((1e-6, 2e-6, 5e-6), "values", 5e-6, True),
        ((5e-6, 1e-6, 2e-6), "values", 1e-6, True),
        ((5e-6, 1e-6, 2e-6), "values", 2e-6, False),
        ((1e-6,), "values", 1e-6, False),
        ((1e-6, 1e-6), "values", 1e-6, False),
        ((None, 0.5, 1.0), "values", None, False),
        ((None, 0.5, 1.0), "values", 1.0, True),
        (([5, 25], [5, 35]), "values", [5, 25], False),
        ((True, False), "values", True, False),
        ((0.0, 1.0), "linear", 0.04, True),
        ((0.0, 1.0), "linear", 0.06, False),
        ((0.0, 1.0), "linear", 0.96, True),
        # A decade: 5% of it is a factor of 1.122.
        ((1e-6, 1e-5), "log", 1.1e-6, True),
        ((1e-6, 1e-5), "log", 1.15e-6, False),
        ((1e-6, 1e-5), "log", 8.7e-6, False),
        ((1e-6, 1e-5), "log", 9.0e-6, True),
        ((2, 4), "linear", 4, True),
        ((2, 4), "linear", 3, False),
        ((2, 2), "linear", 2, False),
    ],
)
def test_value_at_the_end_of_its_range(tried: tuple[Any, ...], scale: Any, chosen: Any, at_the_end: bool) -> None:
    assert SearchedValue("a.path", tried, scale, chosen).at_the_end == at_the_end
