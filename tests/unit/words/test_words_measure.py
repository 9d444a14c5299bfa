"""Readings of synthetic rewards whose loadings are known."""

import numpy as np
import pytest
import torch
from torch import Tensor

from srpo_ray.words.readings import Pair, Reading, correlation, find_pairs, read_words, word_sets

# Columns of a Hadamard matrix: mean 0, standard deviation 1, uncorrelated, so that variances add up exactly.
_HADAMARD = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
PATTERNS = torch.kron(torch.kron(_HADAMARD, _HADAMARD), _HADAMARD)[1:]
DETAIL, COLOR, LIGHT, PLAIN, NOISE = PATTERNS[:5]
ATTRIBUTES = {"truth/detail": DETAIL, "truth/color": COLOR, "truth/light": 0.2 * LIGHT + 5, "image/contrast": NOISE}
AXES = list(ATTRIBUTES)[:3]


def read(*differences: Tensor, plain: Tensor = 2 * PLAIN) -> list[Reading]:
    return read_words(torch.stack(differences), plain, ATTRIBUTES, AXES)


def test_a_linear_reward_is_read_with_its_loadings() -> None:
    (reading,) = read(-3 * DETAIL + 1 * COLOR + 2 * NOISE + 40)
    assert reading.axis == "truth/detail"
    assert reading.direction == -1
    assert reading.spread == pytest.approx(14**0.5 / 2)
    assert reading.strength == pytest.approx(3 / 2)
    assert reading.cleanness == pytest.approx(9 / 10)
    assert reading.score == pytest.approx(1.35)
    expected = {"truth/detail": -3, "truth/color": 1, "truth/light": 0, "image/contrast": 2}
    assert reading.correlations == pytest.approx({name: value / 14**0.5 for name, value in expected.items()})


def test_only_axes_are_read_along_though_another_attribute_fits_better() -> None:
    (reading,) = read(5 * NOISE + 0.5 * LIGHT)
    assert reading.axis == "truth/light"
    assert reading.strength == pytest.approx(0.25)


def test_the_strongest_other_axis_decides_cleanness_and_two_alike_give_a_half() -> None:
    two, three = read(DETAIL + COLOR, 2 * DETAIL + COLOR + LIGHT)
    assert two.cleanness == pytest.approx(0.5)
    assert three.cleanness == pytest.approx(4 / 5)


def test_an_attribute_that_comes_along_with_the_axis_is_not_held_against_a_word() -> None:
    along = {"a": DETAIL, "b": 0.9 * DETAIL + 0.1 * COLOR, "copy": 3 * DETAIL}
    clean, mixed = read_words(torch.stack([DETAIL + NOISE, DETAIL + 0.5 * COLOR]), PLAIN, along, list(along))
    assert clean.correlations["b"] > 0.69
    assert clean.cleanness == pytest.approx(1)
    assert mixed.cleanness < 0.99


def test_cleanness_is_the_share_of_a_regression_on_two_attributes() -> None:
    rng = np.random.default_rng(0)
    first, noise, other = rng.normal(size=(3, 200))
    second = 0.6 * first + other
    difference = first - 0.7 * second + noise
    attributes = {"first": torch.tensor(first), "second": torch.tensor(second)}
    (reading,) = read_words(torch.tensor(difference)[None], torch.tensor(noise), attributes, ["first", "second"])
    design = np.column_stack([first, second, np.ones(200)])
    fitted = design @ np.linalg.lstsq(design, difference, rcond=None)[0]
    alone = max(np.corrcoef(difference, column)[0, 1] ** 2 for column in (first, second))
    assert reading.cleanness == pytest.approx(alone * difference.var() / fitted.var())


def test_a_word_without_any_difference_scores_zero() -> None:
    (reading,) = read(torch.full((8,), 0.3))
    assert (reading.spread, reading.strength, reading.cleanness) == (pytest.approx(0, abs=1e-9), 0, 0)


def test_correlation_agrees_with_numpy_and_is_zero_for_a_constant() -> None:
    rows, columns = torch.randn(3, 50, generator=torch.Generator().manual_seed(1)), torch.randn(2, 50)
    expected = np.corrcoef(rows.numpy(), columns.numpy())[:3, 3:]
    assert correlation(rows, columns).numpy() == pytest.approx(expected, abs=1e-6)
    assert correlation(torch.full((1, 50), 0.1), columns).tolist() == [[0, 0]]


def test_images_that_do_not_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in their plain score"):
        read(DETAIL, plain=torch.ones(8))
    with pytest.raises(ValueError, match="differ in at least one of flat"):
        read_words(DETAIL[None], PLAIN, {"flat": torch.ones(8)}, ["flat"])


def pairs_of(*differences: Tensor) -> list[Pair]:
    arguments = (torch.stack(differences), 2 * PLAIN, ATTRIBUTES, AXES)
    return find_pairs(read_words(*arguments), *arguments)


def test_opposites_on_one_axis_are_paired_with_the_high_end_first() -> None:
    (pair,) = pairs_of(-DETAIL + COLOR / 2, DETAIL + COLOR / 2, LIGHT)
    assert (pair.positive, pair.negative) == (1, 0)
    assert pair.opposition == pytest.approx((-1 + 0.25) / 1.25)
    # What both words share cancels, so the pair is cleaner and twice as strong.
    assert pair.reading.cleanness == pytest.approx(1)
    assert pair.reading.strength == pytest.approx(1)
    assert pair.reading.direction == 1


def test_words_of_two_axes_or_one_direction_or_little_opposition_are_no_pair() -> None:
    assert pairs_of(DETAIL + 0.9 * COLOR, -0.9 * DETAIL - COLOR) == []
    assert pairs_of(0.5 * DETAIL + NOISE, 0.5 * DETAIL - NOISE) == []
    assert pairs_of(DETAIL + 0.9 * NOISE, -DETAIL + 0.9 * NOISE) == []


def test_word_sets_take_each_word_once_and_the_best_pairs_first() -> None:
    pairs = pairs_of(3 * DETAIL, 2 * DETAIL, -3 * DETAIL, -2 * DETAIL, DETAIL, -DETAIL, LIGHT, -LIGHT)
    words = ["detailed", "textured", "flat", "simple", "fine", "plain", "bright", "dark"]
    assert word_sets(words, pairs) == {
        "detail": {"positive": ["detailed", "textured"], "negative": ["flat", "simple"]},
        "light": {"positive": ["bright"], "negative": ["dark"]},
    }
