import math

import pytest

from srpo_ray.rewards.query import TextQuery


def test_plain_query_is_one_text_with_weight_one() -> None:
    query = TextQuery.plain("a cat")

    assert query.terms == ((1.0, "a cat"),)
    assert str(query) == "'a cat'"


def test_query_prints_signed_weights_in_order() -> None:
    query = TextQuery(((1.1, "Real. a cat"), (-1.0, "Painting. a cat")))

    assert str(query) == "+1.1*'Real. a cat' -1*'Painting. a cat'"
    assert query.texts == ("Real. a cat", "Painting. a cat")


def test_relative_query_is_the_mean_over_positive_minus_the_mean_over_negative_words() -> None:
    query = TextQuery.relative("a cat", ["Real", "Sharp"], ["Oil"])

    assert query.terms == ((0.5, "Real. a cat"), (0.5, "Sharp. a cat"), (-1.0, "Oil. a cat"))


def test_query_without_terms_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        TextQuery(())


@pytest.mark.parametrize("term", [(math.nan, "a"), (math.inf, "a"), ("a", 1.0), (1.0, None)])
def test_term_that_is_not_a_finite_weight_and_a_text_is_refused(term: tuple[float, str]) -> None:
    with pytest.raises(ValueError, match="finite weight, text"):
        TextQuery((term,))
