"""A number over runs that differ by their seed alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

_STUDENT_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t for a two-sided 95% interval at 1 to 10 degrees of freedom, from the published tables."""

NORMAL_95 = 1.959964
"""What it comes down to with many degrees of freedom."""


def student_95(degrees: int) -> float:
    """Student's t for a two-sided 95% interval, to two decimals or better.

    Args:
        degrees: Degrees of freedom, at least 1. Above 10 it is the normal quantile with the first two terms of the
            Cornish-Fisher expansion (Abramowitz and Stegun, 26.7.5).
    """
    if degrees <= len(_STUDENT_95):
        return _STUDENT_95[degrees - 1]
    z = NORMAL_95
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


@dataclass(frozen=True)
class OverSeeds:
    """Mean and spread over seeds."""

    count: int
    mean: float
    spread: float | None
    """Standard deviation; None for a single seed."""

    @classmethod
    def of(cls, values: Sequence[float]) -> "OverSeeds | None":
        """Mean and spread; None without values."""
        return cls(len(values), mean(values), stdev(values) if len(values) > 1 else None) if values else None

    @property
    def half_width(self) -> float | None:
        """Half of the 95% interval of the mean by Student's t; None for a single seed."""
        if self.spread is None:
            return None
        return student_95(self.count - 1) * self.spread / math.sqrt(self.count)

    @property
    def is_clear(self) -> bool:
        """Whether the 95% interval leaves out zero."""
        return self.half_width is not None and abs(self.mean) > self.half_width
