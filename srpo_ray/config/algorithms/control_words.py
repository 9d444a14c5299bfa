"""Named sets of control words, and control words of single prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import model_validator

from srpo_ray.config.base import Section
from srpo_ray.config.sources import text_key


class ControlWords(Section):
    """Set of control words for a relative reward."""

    positive: tuple[str, ...]
    """Words to move towards; cycled over updates. Empty if all prompts of the files have `positive_words`."""
    negative: tuple[str, ...]
    """Words to move away from; cycled over updates. Empty if all prompts of the files have `negative_words`."""

    @property
    def complete(self) -> bool:
        """True if both sides have words."""
        return bool(self.positive and self.negative)

    @model_validator(mode="after")
    def _check_words(self) -> Self:
        if any(not text_key(word) for word in (*self.positive, *self.negative)):
            raise ValueError("expected words in positive and negative, got an empty one; remove it")
        if both := words_in_both(self.positive, self.negative):
            raise ValueError(
                f"expected positive and negative to share no word, got {', '.join(map(repr, both))} in both,"
                " so the difference is always 0; remove it from one of them"
            )
        return self


def words_in_both(positive: Sequence[str], negative: Sequence[str]) -> list[str]:
    """Find words that both sides have, up to case, white space and closing punctuation, sorted."""
    return sorted({text_key(word) for word in positive} & {text_key(word) for word in negative})


@dataclass(frozen=True)
class OwnWords:
    """Control words of one prompt, each side in place of that side of the run's set; an empty side has none."""

    positive: tuple[str, ...] = ()
    """Words to move towards."""
    negative: tuple[str, ...] = ()
    """Words to move away from."""

    def __bool__(self) -> bool:
        return bool(self.positive or self.negative)

    def over(self, words: ControlWords) -> ControlWords:
        """Return the words of the prompt in a run with a set; a side that neither has is empty.

        Raises:
            ValueError: If both sides have a word in common.
        """
        if not self:
            return words
        return ControlWords(positive=self.positive or words.positive, negative=self.negative or words.negative)


NO_WORDS = OwnWords()
"""Words of a prompt that has none of its own."""

PAPER_WORDS = ControlWords(
    positive=("Natural-lighting", "Detail", "Detailed", "Real"),
    negative=("Concept art", "Painting", "Anime", "Flat", "Oil"),
)
"""Control words of SRPO's released HPSv2.1 recipe."""
