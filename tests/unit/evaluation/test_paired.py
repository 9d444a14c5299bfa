"""Intervals against scipy, and against the truth of simulated evaluations."""

import numpy as np
import pytest
from scipy import stats

from srpo_ray.evaluation.paired import compare, win_rate
from srpo_ray.evaluation.seeds import student_95


@pytest.mark.parametrize(
    ("degrees", "table"), [(1, 12.706), (2, 4.303), (5, 2.571), (10, 2.228), (15, 2.131), (30, 2.042), (120, 1.980)]
)
def test_student_is_the_t_of_the_tables(degrees: int, table: float) -> None:
    assert student_95(degrees) == pytest.approx(table, abs=5e-4)


@pytest.mark.parametrize("prompts", [2, 9, 40])
def test_difference_and_its_interval_are_those_of_the_paired_t_test_over_prompts(prompts: int) -> None:
    source = np.random.default_rng(prompts)
    base = source.normal(1.0, 3.0, (prompts, 2))
    tuned = base + source.normal(0.2, 0.5, (prompts, 2))
    found = compare("evaluator/x", "tuned", tuned.tolist(), "base", base.tolist())
    test = stats.ttest_rel(tuned.mean(1), base.mean(1))
    expected = test.confidence_interval(0.95)
    assert found.half_width is not None
    assert found.difference - found.half_width == pytest.approx(expected.low, abs=1e-9)
    assert found.difference + found.half_width == pytest.approx(expected.high, abs=1e-9)
    assert found.p_value == pytest.approx(test.pvalue)
    assert (found.mean, found.reference_mean) == (pytest.approx(tuned.mean()), pytest.approx(base.mean()))


@pytest.mark.parametrize(("won", "prompts"), [(0, 8), (5, 8), (60, 80), (80, 80)])
def test_win_rate_of_single_images_has_wilsons_interval(won: int, prompts: int) -> None:
    tuned = [[1.0]] * won + [[-1.0]] * (prompts - won)
    found = win_rate(tuned, [[0.0]] * prompts)
    expected = stats.binomtest(won, prompts).proportion_ci(0.95, method="wilson")
    assert found.rate == won / prompts
    assert (found.low, found.high) == (pytest.approx(expected.low, abs=1e-6), pytest.approx(expected.high, abs=1e-6))


@pytest.mark.parametrize("won", range(9))
def test_win_rate_differs_from_one_half_where_its_interval_leaves_that_out(won: int) -> None:
    found = win_rate([[1.0]] * won + [[-1.0]] * (8 - won), [[0.0]] * 8)
    assert (found.p_value < 0.05) == (found.low > 0.5 or found.high < 0.5)
    # Two of the normal distribution's table: 1.96 deviations leave 5%, sqrt(8) = 2.83 leave 0.47%.
    assert won not in (0, 8) or found.p_value == pytest.approx(0.00468, abs=1e-5)


def test_samples_of_a_prompt_that_agree_count_as_one() -> None:
    once, thrice = ([[gap] * samples for gap in (1.0, 1.0, 1.0, -1.0)] for samples in (1, 3))
    assert win_rate(thrice, [[0.0] * 3] * 4) == win_rate(once, [[0.0]] * 4)


def test_ties_count_half_and_a_single_prompt_has_no_interval_of_the_difference() -> None:
    found = compare("evaluator/x", "tuned", [[1.0, 0.0]], "base", [[0.0, 0.0]])
    assert found.wins.rate == 0.75
    assert found.half_width is None
    assert found.p_value is None
    tied = win_rate([[0.0]] * 20, [[0.0]] * 20)
    assert (tied.rate, tied.p_value) == (0.5, 1.0)


@pytest.mark.parametrize(("wins", "losses"), [(2.0, 2.0), (6.0, 1.5), (0.3, 0.3)])
def test_intervals_contain_the_truth_in_about_95_of_100_simulated_evaluations(wins: float, losses: float) -> None:
    # A prompt's chance to be won is drawn from a beta distribution, so its three images are alike.
    source, prompts, samples, repetitions = np.random.default_rng(7), 40, 3, 1000
    truth, held, held_by_images, held_mean = wins / (wins + losses), 0, 0, 0
    for _ in range(repetitions):
        chances = source.beta(wins, losses, prompts)
        won = source.random((prompts, samples)) < chances[:, None]
        found = compare("evaluator/x", "tuned", won.astype(float).tolist(), "base", [[0.5] * samples] * prompts)
        held += found.wins.low <= truth <= found.wins.high
        assert found.half_width is not None
        held_mean += abs(found.difference - (truth - 0.5)) <= found.half_width
        images = stats.binomtest(int(won.sum()), won.size).proportion_ci(0.95, method="wilson")
        held_by_images += images.low <= truth <= images.high
    assert 0.93 <= held / repetitions <= 0.975
    assert 0.92 <= held_mean / repetitions <= 0.975
    # What takes images of one prompt for independent is too sure of itself.
    assert held_by_images / repetitions < held / repetitions - 0.01
