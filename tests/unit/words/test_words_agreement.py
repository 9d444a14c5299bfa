from math import sqrt

import pytest

from srpo_ray.words.rank_correlation import bootstrap_interval, spearman


def test_equal_values_share_the_mean_of_their_ranks() -> None:
    # Ranks 2.5, 1, 2.5, 4 against 1, 2, 3, 4: deviations 0, -1.5, 0, 1.5 against -1.5, -0.5, 0.5, 1.5.
    assert spearman([3.0, 1.0, 3.0, 9.0], [1.0, 2.0, 3.0, 4.0]) == pytest.approx(3 / sqrt(4.5 * 5))


def test_spearman_agrees_with_the_formula_for_distinct_ranks() -> None:
    one, other = [1.0, 2.0, 3.0, 4.0, 5.0], [20.0, 10.0, 30.0, 500.0, 40.0]
    squares = 1 + 1 + 0 + 1 + 1
    assert spearman(one, other) == pytest.approx(1 - 6 * squares / (5 * 24))
    assert spearman(one, [5.0, 4.0, 3.0, 2.0, -9.0]) == pytest.approx(-1)
    assert spearman(one, [1.0] * 5) == 0


def test_the_interval_contains_the_value_and_is_narrow_for_perfect_agreement() -> None:
    one = [float(value) for value in range(12)]
    shaken = [value + (7 if value % 3 == 0 else 0) for value in one]
    low, high = bootstrap_interval(one, shaken)
    assert low < spearman(one, shaken) < high
    assert bootstrap_interval(one, one) == pytest.approx((1, 1))


def test_the_interval_is_that_of_resampled_pairs_and_counts_a_constant_draw_as_no_correlation() -> None:
    """Of two pairs in order, half of the draws take both (correlation 1) and half take one twice (0)."""
    assert bootstrap_interval([1.0, 2.0], [3.0, 4.0]) == pytest.approx((0, 1))
    assert bootstrap_interval([1.0, 2.0, 3.0], [5.0, 5.0, 5.0]) == (0, 0)
