"""Options of the text queries that a reward scores the images of a run against."""

from typing import ClassVar, Literal

from pydantic import Field

from srpo_ray.config.algorithms.base import AlgorithmSection

Query = Literal["relative", "guided", "plain"]
"""Form of a query."""


class QuerySection(AlgorithmSection):
    """Base of the algorithms that score images against texts: the prompt, or control words in front of the prompt."""

    plain_settings: ClassVar[str] = "set algorithm.query to plain"
    """Advice that selects the plain query."""
    query: Query = "plain"
    """Text of the reward. `plain`: the prompt without control words; `relative`: positive text minus negative text;
    `guided`: `k * positive + (1 - k) * negative`. A text is `<word>. <prompt>`."""
    query_guidance: float = Field(default=2.0, gt=0)
    """`k` of the guided query, above 0, before any discount is added. Other queries ignore it."""
    control_words: str = "paper"
    """Name of the set of control words in `word_sets`. Words of a prompt's own, in the columns `positive_words` and
    `negative_words` of prompt files, replace it for that prompt. The plain query ignores it."""
    word_cycle: Literal["per_update", "per_sample"] = "per_update"
    """Advance of the cycle through the set: to the next words with each update, or with each sample."""
    word_start: int = Field(default=0, ge=0)
    """Index of the words of the first update, from which the cycle starts."""

    @property
    def word_set(self) -> str | None:
        """`control_words`, or None for the plain query."""
        return None if self.query == "plain" else self.control_words
