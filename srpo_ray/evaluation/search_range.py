"""Ranges in which values were searched, and whether a chosen value lies at the end of its range."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

MARGIN = 0.05
"""Share of a continuous range, on its own scale, within which a value counts as lying at the end."""


@dataclass(frozen=True)
class SearchedValue:
    """One config value that a search found for an arm."""

    path: str
    """Dotted config path."""
    tried: Sequence[Any]
    """Values that were tried, or low and high of a range that trials were drawn from."""
    scale: Literal["values", "linear", "log"]
    """`values` for a list; else the scale of the range."""
    chosen: Any
    added: Sequence[Any] = ()
    """Values of `tried` beyond the ends of the file's list, which the search has added."""
    is_limit: bool = False
    """True if the config refuses the next value beyond the chosen one, so that none is missing."""

    @property
    def at_the_end(self) -> bool:
        """True if the chosen value is at the end of what was tried, so that a better one may lie beyond.

        Of a list, it is the least or the largest of two or more numbers; lists of other values have no end.
        """
        if self.scale == "values":
            numbers = {value for value in self.tried if _is_number(value)}
            return len(numbers) > 1 and _is_number(self.chosen) and self.chosen in (min(numbers), max(numbers))
        low, high, chosen = (
            math.log(value) if self.scale == "log" else float(value) for value in (*self.tried, self.chosen)
        )
        return not MARGIN < (chosen - low) / (high - low) < 1 - MARGIN if high > low else False


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
