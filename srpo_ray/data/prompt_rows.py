"""Rows of prompt files: a prompt, the text that conditions the model on it, and control words of its own."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from srpo_ray.config.algorithms.control_words import NO_WORDS, ControlWords, OwnWords


@dataclass(frozen=True)
class PromptRows:
    """Prompts, and for each what the model reads in its place and what words the reward puts before it."""

    prompts: list[str]
    """Texts that rewards read."""
    conditioning: list[str]
    """Texts that condition the model: the prompt itself, or another text such as a rewritten prompt."""
    words: list[OwnWords]
    """Control words of the prompts' own."""

    @classmethod
    def plain(cls, prompts: Sequence[str]) -> "PromptRows":
        """Build rows of prompts that also condition the model, without words of their own."""
        return cls(list(prompts), list(prompts), [NO_WORDS] * len(prompts))

    def __len__(self) -> int:
        return len(self.prompts)

    def __add__(self, other: "PromptRows") -> "PromptRows":
        return PromptRows(
            self.prompts + other.prompts, self.conditioning + other.conditioning, self.words + other.words
        )

    def __mul__(self, count: int) -> "PromptRows":
        return PromptRows(self.prompts * count, self.conditioning * count, self.words * count)

    def first(self, count: int | None) -> "PromptRows":
        """Return the first rows; None returns all."""
        return PromptRows(self.prompts[:count], self.conditioning[:count], self.words[:count])

    @property
    def rewritten(self) -> bool:
        """True if the model reads another text than the rewards for any prompt."""
        return self.conditioning != self.prompts

    @property
    def has_words(self) -> bool:
        """True if any prompt has words of its own."""
        return any(self.words)

    @property
    def repeated(self) -> int:
        """Number of rows that repeat an earlier one: prompt, conditioning and words."""
        return len(self) - len(set(zip(self.prompts, self.conditioning, self.words, strict=True)))

    def words_over(self, words: ControlWords | None) -> list[ControlWords] | None:
        """Return the control words of each prompt in a run with a set; None if no prompt has words of its own.

        Args:
            words: Set of the run; None if its rewards read no control words.
        """
        return [own.over(words) for own in self.words] if words and self.has_words else None

    @property
    def keys(self) -> list[str] | None:
        """Texts that tell different rows of one prompt apart; None if all rows are prompts alone."""
        if not self.rewritten and not self.has_words:
            return None
        rows = zip(self.prompts, self.conditioning, self.words, strict=True)
        return [
            prompt if text == prompt and not own else json.dumps([prompt, text, own.positive, own.negative])
            for prompt, text, own in rows
        ]
