"""Named sets of control words."""

from typing import Self

from pydantic import Field, model_validator

from srpo_ray.config.base import Section
from srpo_ray.config.sources import text_key


class ControlWords(Section):
    """Set of control words for a relative reward."""

    positive: tuple[str, ...] = Field(min_length=1)
    """Words to move towards; cycled over updates."""
    negative: tuple[str, ...] = Field(min_length=1)
    """Words to move away from; cycled over updates."""

    @model_validator(mode="after")
    def _check_words(self) -> Self:
        sides = [{text_key(word) for word in side} for side in (self.positive, self.negative)]
        if "" in sides[0] | sides[1]:
            raise ValueError("expected words in positive and negative, got an empty one; remove it")
        if both := sides[0] & sides[1]:
            raise ValueError(
                f"expected positive and negative to share no word, got {', '.join(map(repr, sorted(both)))} in both,"
                " so the difference is always 0; remove it from one of them"
            )
        return self


PAPER_WORDS = ControlWords(
    positive=("Natural-lighting", "Detail", "Detailed", "Real"),
    negative=("Concept art", "Painting", "Anime", "Flat", "Oil"),
)
"""Control words of SRPO's released HPSv2.1 recipe."""
