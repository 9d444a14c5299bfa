"""A number over runs that differ by their seed alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import mean, stdev


@cache
def student_95(degrees: int) -> float:
    """Student's t for a two-sided 95% interval.

    Args:
        degrees: Degrees of freedom, at least 1.
    """
    # Drivers import this module at their start, and scipy.stats takes a second to import.
    from scipy import stats

    return float(stats.t.ppf(0.975, degrees))


@cache
def normal_95() -> float:
    """The normal quantile for a two-sided 95% interval."""
    from scipy import stats

    return float(stats.norm.ppf(0.975))


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
