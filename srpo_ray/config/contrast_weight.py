"""Weight of a tuned model in its contrast with another one, by noise level."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator

_ROUNDING = 1e-6


@dataclass(frozen=True)
class ContrastWeight:
    """Weight `w` of the velocity `other + w (tuned - other)`, piecewise constant in sigma."""

    levels: tuple[tuple[float, float], ...]
    """Highest sigma of a level and its weight, noisiest first; the first sigma is 1."""

    @classmethod
    def constant(cls, weight: float) -> "ContrastWeight":
        """Build a weight that is the same at every sigma."""
        return cls(((1.0, weight),))

    @classmethod
    def parse(cls, option: str, text: str) -> "ContrastWeight":
        """Read `W`, or `W,W@SIGMA,...`, where a weight with a sigma holds from this sigma down.

        Args:
            option: Name of the option, for messages.
            text: `1.5`; or `1,1.5@0.6`: 1 above a sigma of 0.6, then 1.5.

        Raises:
            ValueError: If it has another form, a weight is negative, or the sigmas do not fall from below 1 to above 0.
        """
        try:
            return cls.read(text)
        except ValueError as error:
            raise ValueError(f"{option}: {error}") from None

    @classmethod
    def read(cls, text: str) -> "ContrastWeight":
        """Read the text of `parse`; the message of its ValueError names no option."""
        first, *later = text.split(",")
        try:
            pairs = [part.split("@") for part in later]
            levels = ((1.0, float(first)), *((float(sigma), float(weight)) for weight, sigma in pairs))
        except ValueError:
            raise ValueError(
                f"expected a weight, or weights by noise level as 1,1.5@0.6, got {text!r}; write W,W@SIGMA"
            ) from None
        if not all(math.isfinite(weight) and weight >= 0 for _, weight in levels):
            raise ValueError(f"expected weights of at least 0, got {text!r}; raise them")
        sigmas = [sigma for sigma, _ in levels]
        if not all(above > below > 0 for above, below in pairwise(sigmas)):
            raise ValueError(f"expected sigmas below 1 and above 0, each below the one before, got {text!r}; sort them")
        return cls(levels)

    def at(self, sigma: float) -> float:
        """Return the weight at a sigma in [0, 1]; a float32 sigma may exceed a level's by its rounding."""
        return next(weight for highest, weight in reversed(self.levels) if sigma <= highest + _ROUNDING)

    @property
    def used(self) -> set[float]:
        """Weights of all levels."""
        return {weight for _, weight in self.levels}

    @property
    def plain(self) -> float | str:
        """Number if the weight is constant, else the text that `parse` reads."""
        return self.levels[0][1] if len(self.levels) == 1 else self.text

    @property
    def text(self) -> str:
        """Text that `parse` reads."""
        first, *later = self.levels
        return ",".join([f"{first[1]:g}", *(f"{weight:g}@{sigma:g}" for sigma, weight in later)])

    @property
    def label(self) -> str:
        """Text that can be part of a file's name: `1.5`, `1_1.5_below_0.6`."""
        first, *later = self.levels
        return "_".join([f"{first[1]:g}", *(f"{weight:g}_below_{sigma:g}" for sigma, weight in later)])


BASE, TUNED = ContrastWeight.constant(0.0), ContrastWeight.constant(1.0)
"""Weights at which only one of the two models is called."""


def _check_text(value: float | str) -> float | str:
    return ContrastWeight.read(str(value)).plain


WeightText = Annotated[float | str, AfterValidator(_check_text)]
"""Weight in a config: a number, or the text that `ContrastWeight.parse` reads."""
