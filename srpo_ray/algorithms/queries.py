"""Text queries of a batch: the prompts alone, or a positive control word compared with a negative one."""

from collections.abc import Sequence
from typing import Literal

from srpo_ray.config.algorithms.control_words import ControlWords
from srpo_ray.config.algorithms.query import QuerySection
from srpo_ray.flow import Draws
from srpo_ray.rewards.query import TextQuery

Side = Literal["positive", "negative"]
"""Side of a set of control words."""


def batch_queries(
    config: QuerySection,
    words: Sequence[ControlWords] | None,
    prompts: Sequence[str],
    draws: Draws,
    own: Side = "positive",
    discounts: Sequence[float] | None = None,
) -> list[TextQuery]:
    """Build the query of each row.

    Args:
        config: Options of the queries.
        words: Control words of the B rows; None is enough for plain queries.
        prompts: Prompts of the B rows, without control words.
        draws: Update and samples of the B rows, which determine the turn of their words. Images of one sample have the
            same words.
        own: Control word that the query rewards; the other one is subtracted.
        discounts: Additional weight of each row's own text, `[B]`; None is 0. A plain query ignores it.
    """
    if config.query == "plain":
        return [TextQuery.plain(prompt) for prompt in prompts]
    assert words is not None, "queries with control words need words"
    queries: list[TextQuery] = []
    rows = zip(draws.samples, prompts, words, discounts or [0.0] * len(prompts), strict=True)
    for sample, prompt, of_row, discount in rows:
        turn = config.word_start + draws.update + (sample if config.word_cycle == "per_sample" else 0)
        positive = f"{of_row.positive[turn % len(of_row.positive)]}. {prompt}"
        negative = f"{of_row.negative[turn % len(of_row.negative)]}. {prompt}"
        own_text, other_text = (positive, negative) if own == "positive" else (negative, positive)
        if config.query == "guided":
            queries.append(guided_query(own_text, other_text, config.query_guidance + discount))
        else:
            queries.append(relative_query(own_text, other_text, discount))
    return queries


def relative_query(own: str, other: str, discount: float) -> TextQuery:
    """Build the query `(1 + discount) * own text - other text`."""
    return TextQuery(((1 + discount, own), (-1.0, other)))


def guided_query(own: str, other: str, guidance: float) -> TextQuery:
    """Build the query `guidance * own text + (1 - guidance) * other text`, with weights of sum 1."""
    return TextQuery(((guidance, own), (1 - guidance, other)))
