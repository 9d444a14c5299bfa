"""Comparison by categories of prompts, against scipy and simulated evaluations."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from srpo_ray.evaluation.categories import (
    OVERALL,
    CategoryComparison,
    CategoryScores,
    category_means,
    compare_categories,
)
from srpo_ray.evaluation.paired import Values

BASE = [[0.0, 1.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]
TUNED = [[1.0, 1.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [1.0, 0.0]]


def scores_of(groups: dict[str, list[int]], base: Values, tuned: Values) -> CategoryScores:
    values = {
        name: {"base": [base[index] for index in chosen], "tuned": [tuned[index] for index in chosen]}
        for name, chosen in groups.items()
    }
    return CategoryScores("evaluator/q", groups, values)


def compared(groups: dict[str, list[int]], base: Values = BASE, tuned: Values = TUNED) -> dict[str, CategoryComparison]:
    return {row.category: row for row in compare_categories(scores_of(groups, base, tuned))}


def test_overall_is_the_mean_of_categories_whatever_their_sizes() -> None:
    found = compared({"colors": [0, 1, 2], "counting": [3, 4]})
    assert (found["colors"].reference_mean, found["colors"].mean) == (0.5, pytest.approx(5 / 6))
    assert (found["counting"].reference_mean, found["counting"].mean) == (0.25, 0.5)
    assert found[OVERALL].mean == pytest.approx((5 / 6 + 0.5) / 2)
    assert found[OVERALL].difference == pytest.approx((1 / 3 + 0.25) / 2)
    assert [found[name].num_prompts for name in found] == [3, 2, 5]


def test_interval_of_a_category_is_students_t_of_its_prompts() -> None:
    found = compared({"colors": [0, 1, 2], "counting": [3, 4]})["colors"]
    test: Any = stats.ttest_1samp([0.5, 0.5, 0.0], 0)
    low, high = test.confidence_interval()
    assert (found.difference - (found.half_width or 0), found.difference + (found.half_width or 0)) == pytest.approx(
        (low, high)
    )
    assert found.p_value == pytest.approx(test.pvalue)


def test_interval_of_two_categories_is_welchs() -> None:
    source = np.random.default_rng(0)
    first, second = source.normal(0.2, 0.1, 9), source.normal(-0.1, 0.4, 5)
    tuned = [[value] for value in (*first, *second)]
    found = compared({"a": list(range(9)), "b": list(range(9, 14))}, [[0.0]] * 14, tuned)[OVERALL]
    # The mean of two means is half of the difference of the first mean and the negative second one.
    test: Any = stats.ttest_ind(first, -second, equal_var=False)
    low, high = test.confidence_interval()
    assert (found.half_width or 0) * 4 == pytest.approx(high - low)
    assert found.p_value == pytest.approx(test.pvalue)


def test_prompt_of_two_categories_counts_as_one_observation() -> None:
    groups = {"two_object": [0, 1, 2, 3, 4], "color_attr": [0, 1, 2, 3, 4]}
    found = compared(groups)
    gaps = np.mean(TUNED, axis=1) - np.mean(BASE, axis=1)
    low, high = stats.ttest_1samp(gaps, 0).confidence_interval()
    assert (found[OVERALL].half_width or 0) * 2 == pytest.approx(high - low)
    assert found[OVERALL].num_prompts == 5


def test_single_prompt_has_no_interval() -> None:
    found = compared({"a": [0, 1, 2], "b": [3]})
    assert found["a"].half_width is not None
    assert found["b"].half_width is found[OVERALL].half_width is None


def test_interval_contains_the_true_difference_in_about_95_percent_of_evaluations() -> None:
    source = np.random.default_rng(1)
    groups = {"a": list(range(30)), "b": list(range(30, 50)), "c": list(range(50, 90))}
    rates = {"a": (0.9, 0.95), "b": (0.3, 0.5), "c": (0.6, 0.5)}
    truth = np.mean([tuned - base for base, tuned in rates.values()])
    hits = 0
    for _ in range(400):
        base, tuned = (
            [
                [float(source.random() < rates[name][model]) for _ in range(4)]
                for name, chosen in groups.items()
                for _ in chosen
            ]
            for model in range(2)
        )
        found = compared(groups, base, tuned)[OVERALL]
        hits += abs(found.difference - truth) <= (found.half_width or 0)
    assert 0.92 < hits / 400 < 0.98


def test_means_of_one_model_have_the_intervals_of_scipy() -> None:
    """Every category is a sample of its own, and their equally weighted mean has Welch's interval."""
    source = np.random.default_rng(1)
    first, second = source.normal(0.6, 0.1, 9), source.normal(0.3, 0.4, 5)
    values = [[value] for value in (*first, *second)]
    groups = {"a": list(range(9)), "b": list(range(9, 14))}
    found = {row.category: row for row in category_means(scores_of(groups, values, values))}
    for name, own in (("a", first), ("b", second)):
        low, high = stats.t.interval(0.95, len(own) - 1, own.mean(), stats.sem(own))
        assert found[name].mean == pytest.approx(own.mean())
        assert (found[name].half_width or 0) * 2 == pytest.approx(high - low)
    test: Any = stats.ttest_ind(first, -second, equal_var=False)
    low, high = test.confidence_interval()
    assert found[OVERALL].mean == pytest.approx((first.mean() + second.mean()) / 2)
    assert (found[OVERALL].half_width or 0) * 4 == pytest.approx(high - low)
    assert [row.num_prompts for row in found.values()] == [9, 5, 14]
