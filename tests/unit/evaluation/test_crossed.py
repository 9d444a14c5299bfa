"""Intervals over seeds and prompts: their coverage in simulations, and closed forms."""

from math import sqrt

import numpy as np
import pytest
from scipy import stats

from srpo_ray.evaluation.crossed import difference_between, intervals, mean_over

PROMPT = 0.03
"""Standard deviation over prompts of the small world's gain."""


def tables(count: int, seeds: int, prompts: int, of_prompt: float, of_seed: float, residual: float, source: int = 0):
    """`[count, seeds, prompts]` with a mean of zero: an effect per prompt, one per seed, and one per image."""
    rng = np.random.default_rng(source)
    prompt_effects = of_prompt * rng.normal(size=(count, 1, prompts))
    seed_effects = of_seed * rng.normal(size=(count, seeds, 1))
    return prompt_effects + seed_effects + residual * rng.normal(size=(count, seeds, prompts))


def coverage(groups: list[np.ndarray]) -> float:
    mean, half_width, _ = intervals(groups)
    return float(np.mean(abs(mean) <= half_width))


@pytest.mark.parametrize(("seeds", "prompts"), [(3, 8), (3, 32), (5, 32), (3, 64)])
@pytest.mark.parametrize(
    ("of_seed", "residual"),
    [(0.0005, 0.005), (0.0005, 0.0), (0.0, 0.01), ("as prompts", 0.005), ("twice", 0.005)],
)
def test_95_of_100_intervals_hold_the_mean(seeds: int, prompts: int, of_seed: float | str, residual: float) -> None:
    factor = {"as prompts": 1, "twice": 2}.get(str(of_seed))
    spread = float(of_seed) if factor is None else factor * PROMPT / sqrt(prompts)
    assert coverage([tables(3000, seeds, prompts, PROMPT, spread, residual)]) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("seeds", [3, 5])
def test_95_of_100_intervals_hold_the_mean_where_prompts_or_seeds_do_not_matter(seeds: int) -> None:
    assert coverage([tables(3000, seeds, 32, 0.0, 0.005, 0.01)]) == pytest.approx(0.95, abs=0.02)
    assert coverage([tables(3000, seeds, 32, PROMPT, 0.0, 0.0)]) == pytest.approx(0.95, abs=0.02)
    assert coverage([tables(3000, seeds, 32, 0.0, PROMPT, 0.0)]) == pytest.approx(0.95, abs=0.02)


def test_two_seeds_give_intervals_that_are_wide_enough_whatever_varies() -> None:
    for of_prompt, of_seed, residual in (
        (0.03, 0.0005, 0.005),
        (0.03, 0.005, 0.005),
        (0.03, 0.03, 0.01),
        (0, 0.005, 0.01),
    ):
        assert coverage([tables(3000, 2, 32, of_prompt, of_seed, residual)]) >= 0.94


def test_intervals_over_seeds_alone_miss_the_mean_of_other_prompts() -> None:
    """The reason for counting prompts: seeds vary sixty times less than prompts."""
    values = tables(2000, 3, 32, PROMPT, 0.0005, 0.005)
    assert coverage([values.mean(-1, keepdims=True)]) < 0.35


def test_a_single_seed_gives_students_interval_over_prompts() -> None:
    values = tables(1, 1, 32, PROMPT, 0.0, 0.0)[0]
    found, error = mean_over(values), values.std(ddof=1) / sqrt(32)
    assert (found.counted, found.spread) == ("prompts only", None)
    assert found.half_width == pytest.approx(stats.t.ppf(0.975, 31) * error)
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(values.mean()) / error, 31))
    assert coverage([tables(3000, 1, 32, PROMPT, 0.0, 0.005)]) == pytest.approx(0.95, abs=0.02)


def test_values_without_prompts_give_students_interval_over_seeds() -> None:
    found = mean_over([[1.0], [2.0], [3.0]])
    assert (found.counted, found.mean, found.spread) == ("seeds only", 2.0, 1.0)
    # 4.303 / sqrt(3); t = 2 sqrt(3) at 2 degrees of freedom, with distribution function 1/2 + t / (2 sqrt(2 + t^2)).
    assert found.half_width == pytest.approx(2.4843, abs=1e-3)
    assert found.p_value == pytest.approx(1 - sqrt(12 / 14))


def test_a_single_value_has_no_interval() -> None:
    found = mean_over([[0.5]])
    assert (found.mean, found.half_width, found.p_value, found.counted) == (0.5, None, None, "nothing")


def test_standard_deviation_over_seeds_is_that_of_the_runs_means() -> None:
    values = np.array([[0.1, 0.5], [0.2, 0.6], [0.3, 0.7]])
    assert mean_over(values).spread == pytest.approx(0.1)
    assert mean_over(values).num_seeds == 3


def test_equal_values_have_an_interval_of_zero() -> None:
    found = mean_over(np.full((3, 4), 0.25))
    assert (found.mean, found.half_width, found.p_value) == (0.25, 0.0, 0.0)
    assert mean_over(np.zeros((3, 4))).p_value == 1.0


@pytest.mark.parametrize("seeds", [(3, 3), (3, 1), (2, 4)])
@pytest.mark.parametrize("of_seed", [0.0005, 0.005, 0.02])
def test_95_of_100_differences_of_arms_with_other_seeds_hold_zero(seeds: tuple[int, int], of_seed: float) -> None:
    one, other = (tables(3000, count, 32, 0.02, of_seed, 0.005, source) for source, count in enumerate(seeds))
    assert coverage([one, other]) == pytest.approx(0.955, abs=0.023)


def test_one_more_run_differs_from_three_by_less_than_its_interval_in_95_of_100_cases() -> None:
    """Without prompts it is the prediction interval t s sqrt(1 + 1/3) with two degrees of freedom."""
    others = [[0.1], [0.2], [0.3]]
    found = difference_between([[0.9]], others)
    assert found.mean == pytest.approx(0.7)
    assert found.half_width == pytest.approx(4.3027 * 0.1 * sqrt(4 / 3), abs=1e-4)
    draws = np.random.default_rng(0).normal(size=(4000, 4, 1))
    assert coverage([draws[:, :1], draws[:, 1:]]) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("of_seed", [0.0, 0.0005, PROMPT / sqrt(32)])
def test_one_of_twenty_tests_without_an_effect_is_positive(of_seed: float) -> None:
    _, _, p_values = intervals([tables(3000, 3, 32, PROMPT, of_seed, 0.005)])
    assert np.mean(p_values < 0.05) == pytest.approx(0.05, abs=0.02)


def test_a_mean_is_significant_where_its_interval_leaves_out_zero() -> None:
    mean, half_width, p_values = intervals([tables(500, 3, 16, 0.03, 0.01, 0.01) + 0.02])
    assert ((abs(mean) > half_width) == (p_values < 0.05)).all()
