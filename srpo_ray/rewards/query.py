"""Text query that a reward scores an image against; separate from the prompt that conditions the image model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Pairs = Sequence[tuple[int, int]]
"""Pairs of images with the same query, as indices of a batch."""


@dataclass(frozen=True)
class TextQuery:
    """Weighted sum of texts that one image is scored against.

    It expresses the plain, the relative and the guided form of SRPO for any reward that is linear in its text feature:
    `((1.1, "Real. a cat"), (-1.0, "Painting. a cat"))`. Weights need not sum to 1.

    Raises:
        ValueError: If there is no term, or a term is not a finite weight with a text.

    Source: the text side of SRPO's relative reward, arXiv:2509.06942, section 3.
    """

    terms: tuple[tuple[float, str], ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError(
                "a text query needs at least one (weight, text) term, received none; "
                "use TextQuery.plain(text) for a single text"
            )
        for weight, text in self.terms:
            if not isinstance(text, str) or not isinstance(weight, int | float) or not math.isfinite(weight):
                raise ValueError(
                    f"a term of a text query is (finite weight, text), received ({weight!r}, {text!r}); "
                    "check the numbers and the order inside the pair"
                )

    @classmethod
    def plain(cls, text: str) -> "TextQuery":
        """Build the query of an ordinary reward: one text with weight 1."""
        return cls(((1.0, text),))

    @classmethod
    def relative(cls, prompt: str, positive: Sequence[str], negative: Sequence[str]) -> "TextQuery":
        """Build the relative query: mean score of `<word>. <prompt>` over positive minus mean over negative words."""
        toward = tuple((1 / len(positive), f"{word}. {prompt}") for word in positive)
        return cls(toward + tuple((-1 / len(negative), f"{word}. {prompt}") for word in negative))

    @property
    def texts(self) -> tuple[str, ...]:
        """Texts of the terms, in order."""
        return tuple(text for _, text in self.terms)

    def __str__(self) -> str:
        if len(self.terms) == 1 and self.terms[0][0] == 1:
            return repr(self.terms[0][1])
        return " ".join(f"{weight:+g}*{text!r}" for weight, text in self.terms)
