import random

import pytest

from srpo_ray.evaluation.importance import permutation_p, variance_explained


def test_only_the_parameter_that_matters_stands_out():
    random.seed(0)
    params = [
        {
            "lr": 10 ** random.uniform(-6, -5),
            "words": random.choice("abc"),
            "window": random.choice([[0, 20], [5, 25]]),
        }
        for _ in range(60)
    ]
    scores = [{"a": 0.1, "b": 0.5, "c": 0.3}[str(trial["words"])] + random.gauss(0, 0.02) for trial in params]
    shares = variance_explained(params, scores)
    words, lr, window = shares["words"], shares["lr"], shares["window"]
    assert words is not None
    assert lr is not None
    assert window is not None
    assert words > 0.95
    assert lr < 0.1
    assert window < 0.1


def test_a_number_is_seen_through_its_thirds():
    params = [{"lr": float(number)} for number in range(30)]
    share = variance_explained(params, [float(number**2) for number in range(30)])["lr"]
    assert share is not None
    assert share > 0.8


def test_correction_by_hand():
    # Within groups 4 * 0.25 = 1 of 5 in all; n = 4 in two groups: 1 - 0.2 * 3 / 2 = 0.7.
    params = [{"a": "x"}, {"a": "x"}, {"a": "y"}, {"a": "y"}]
    assert variance_explained(params, [0.5, 1.5, 2.5, 3.5])["a"] == pytest.approx(0.7)


def test_chance_is_worth_nothing_on_average():
    random.seed(1)
    shares = []
    for _ in range(200):
        params = [{"a": random.choice("abcd")} for _ in range(10)]
        share = variance_explained(params, [random.gauss(0, 1) for _ in params])["a"]
        shares.append(share or 0.0)
    assert sum(share == 0 for share in shares) > 100


def test_permutation_p_is_that_of_the_exact_test_by_hand() -> None:
    """Of the 20 ways to choose three of six scores, two have the groups as far apart as these."""
    p = permutation_p(["x", "x", "x", "y", "y", "y"], [1.0, 2.0, 3.0, 10.0, 11.0, 12.0])
    assert p == pytest.approx(2 / 20, abs=0.03)


def test_p_values_of_a_parameter_without_an_effect_are_calibrated() -> None:
    source = random.Random(3)
    found = [
        permutation_p([source.choice("abc") for _ in range(24)], [source.gauss(0, 1) for _ in range(24)])
        for _ in range(100)
    ]
    assert 0.01 <= sum(p < 0.1 for p in found) / 100 <= 0.2


@pytest.mark.parametrize(
    ("values", "scores"),
    [
        (["x", "x", "x"], [1.0, 2.0, 3.0]),
        (["x", "y", "z"], [1.0, 2.0, 3.0]),
        (["x", "x", "y"], [1.0, 1.0, 1.0]),
        (["x"], [1.0]),
    ],
)
def test_undefined_shares_are_none(values: list[str], scores: list[float]):
    assert variance_explained([{"a": value} for value in values], scores) == {"a": None}


def test_no_trials_have_no_parameters():
    assert variance_explained([], []) == {}


def test_lists_empty_values_and_booleans_are_groups():
    params = [{"a": [1, 2]}, {"a": [1, 2]}, {"a": None}, {"a": None}, {"a": True}, {"a": True}]
    share = variance_explained(params, [1.0, 1.1, 5.0, 5.1, 9.0, 9.1])["a"]
    assert share is not None
    assert share > 0.9
