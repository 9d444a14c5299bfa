"""Quality of gradients: cosines against constructions and linear-Gaussian estimators whose values are known."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from srpo_ray.evaluation.gradient_quality import (
    GradientDots,
    adam_gain,
    alignment,
    consistency,
    cosine_of_means,
    gain,
    signal_to_noise,
    updates_within,
    with_interval,
)

Array = NDArray[np.float64]
MEAN, TRUE = np.array([3.0, 4.0, 0.0]), np.array([0.0, 2.0, 0.0])
"""Mean gradient and true gradient; their cosine is 0.8."""
NOISE, COST = 10.0, 20.0


def dots_of(updates: Array, references: Array, cost: float = COST) -> GradientDots:
    """Dot products of updates `[B, U, D]` and estimates of the true gradient `[R, D]`."""
    means, roots = updates.mean(axis=1), np.sqrt(np.square(updates).mean(axis=(0, 1)))
    return GradientDots(
        own=means @ means.T,
        cross=means @ references.T,
        reference=references @ references.T,
        scaled=(means / np.maximum(roots, 1e-30)) @ references.T,
        squares=np.square(updates).sum(axis=2).mean(axis=1),
        cost=cost,
    )


def orthogonal(blocks: int, per_block: int, references: int) -> tuple[Array, Array]:
    """Updates and estimates whose noises are orthogonal to each other and to both means."""
    count = blocks * per_block
    noise = np.eye(3 + count + references)[3:]
    mean, true = (np.pad(vector, (0, count + references)) for vector in (MEAN, TRUE))
    updates = (mean + NOISE * noise[:count]).reshape(blocks, per_block, -1)
    return updates, true + 7.0 * noise[count:]


def cosine(first: Array, second: Array) -> float:
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def test_noise_of_updates_and_of_the_reference_leaves_the_cosine_of_the_means() -> None:
    assert cosine_of_means(dots_of(*orthogonal(4, 3, 5))) == pytest.approx(0.8, abs=1e-12)


@pytest.mark.parametrize("averaged", [1, 2, 12])
def test_alignment_and_consistency_are_the_cosines_of_explicit_averages(averaged: int) -> None:
    updates, references = orthogonal(4, 3, 5)
    dots = dots_of(updates, references)
    average = updates.reshape(12, -1)[:averaged].mean(axis=0)
    mean, true = (np.pad(vector, (0, len(average) - 3)) for vector in (MEAN, TRUE))
    assert alignment(dots, averaged) == pytest.approx(cosine(average, true), abs=1e-12)
    assert consistency(dots, averaged) == pytest.approx(cosine(average, mean), abs=1e-12)
    assert signal_to_noise(dots) == pytest.approx(25 / NOISE**2)


def test_gain_is_the_slope_along_the_normalised_gradient_per_evaluation() -> None:
    updates, references = orthogonal(4, 3, 5)
    step = updates[0, 0] / np.linalg.norm(updates[0, 0])
    slope = step[:3] @ TRUE
    assert gain(dots_of(updates, references)) == pytest.approx(slope / COST, abs=1e-12)


def test_adam_gain_divides_each_element_by_its_root_mean_square() -> None:
    # Both updates have the first element 3 and the second 4 or -2; the true gradient sees both.
    updates = np.array([[[3.0, 4.0]], [[3.0, -2.0]]])
    true = np.array([[1.0, 2.0], [1.0, 2.0]])
    expected = 1.0 * 3 / 3 + 2.0 * 1 / math.sqrt(10)
    assert adam_gain(dots_of(updates, true)) == pytest.approx(expected / COST)


def test_half_of_the_budget_pays_for_half_of_an_update() -> None:
    assert updates_within(dots_of(*orthogonal(2, 1, 2)), COST / 2) == 0.5


def evolution_strategies(slope: Array, group: int, count: int, random: np.random.Generator) -> Array:
    """Gradients `mean_j (a . z_j) z_j` of the reward `a . x` with `x = theta + z`, `[count, D]`; their mean is a."""
    draws = random.standard_normal((count, group, len(slope)))
    return np.einsum("cg,cgd->cd", draws @ slope, draws) / group


def test_an_unbiased_estimator_has_direction_one_and_the_alignment_of_its_covariance() -> None:
    random = np.random.default_rng(0)
    slope = random.standard_normal(20)
    updates = evolution_strategies(slope, 5, 4000, random)[:, None]
    dots = dots_of(updates, slope + 0.1 * random.standard_normal((6, 20)))
    # E |g|^2 = |a|^2 (1 + (D + 1) / G).
    expected = 1 / math.sqrt(1 + 21 / 5)
    assert cosine_of_means(dots) == pytest.approx(1, abs=0.01)
    assert alignment(dots) == pytest.approx(expected, abs=0.01)
    assert alignment(dots, 50) == pytest.approx(1 / math.sqrt(1 + 21 / 250), abs=0.01)
    assert signal_to_noise(dots) == pytest.approx(5 / 21, rel=0.05)


def test_a_biased_estimator_has_the_cosine_of_its_mean() -> None:
    random = np.random.default_rng(1)
    slope, factors = np.ones(16), np.repeat([1.0, 0.1], 8)
    updates = factors * evolution_strategies(slope, 5, 4000, random)
    dots = dots_of(updates[:, None], np.tile(slope, (2, 1)))
    assert cosine_of_means(dots) == pytest.approx(1.1 / math.sqrt(2 * 1.01), abs=0.01)


def test_intervals_contain_the_true_cosine_in_about_95_percent_of_the_studies() -> None:
    random = np.random.default_rng(2)
    slope, inside = random.standard_normal(30), 0
    truth = 1 / math.sqrt(1 + 31 / 8)
    for _ in range(300):
        updates = evolution_strategies(slope, 8, 8 * 3, random).reshape(8, 3, 30)
        found = with_interval(alignment, dots_of(updates, slope + 0.5 * random.standard_normal((6, 30))))
        inside += abs(found.value - truth) <= found.half_width
    assert 0.9 <= inside / 300 <= 0.99


def test_a_mean_below_the_noise_has_no_direction() -> None:
    # Opposite gradients: the estimate of the squared norm of their mean is negative.
    dots = dots_of(np.array([[[1.0, 0.0]], [[-1.0, 0.0]]]), np.ones((2, 2)))
    assert math.isnan(cosine_of_means(dots))
    assert alignment(dots) == 0


def test_one_block_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 blocks of updates"):
        dots_of(np.ones((1, 3, 2)), np.ones((2, 2)))
