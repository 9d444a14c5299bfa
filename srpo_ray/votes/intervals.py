"""Shares of votes with 95% intervals that count the correlation of votes on one prompt and by one person."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

MANY_RATERS = 5
"""Persons from which their differences enter the interval; fewer say too little about the spread over persons."""


@dataclass(frozen=True)
class Share:
    """Mean of values in [0, 1], one per vote."""

    rate: float
    low: float
    high: float
    """Ends of the 95% interval."""
    p_value: float
    """Two-sided p-value of a share of one half, by the test that corresponds to the interval."""
    votes: int


@cache
def student_quantile(degrees: int) -> float:
    """Student's t for a two-sided 95% interval; for 0 degrees of freedom that of 1, the widest that there is."""
    # scipy.stats takes a second to import, and the page of votes does not need it.
    from scipy import stats

    return float(stats.t.ppf(0.975, max(1, degrees)))


def clustered_share(values: Sequence[float], prompts: Sequence[Hashable], raters: Sequence[Hashable]) -> Share:
    """Estimate a share from correlated votes.

    The variance is cluster-robust over prompts, and over prompts and raters (Cameron, Gelbach and Miller, Journal of
    Business & Economic Statistics 29, 2011) from `MANY_RATERS` raters. The interval is Wilson's with the effective
    number of votes that this variance implies, and with Student's t in place of the normal quantile.

    Args:
        values: Value in [0, 1] of each of N votes, N at least 1.
        prompts: Prompt of each vote.
        raters: Person of each vote.
    """
    from scipy import stats

    sample = np.asarray(values, dtype=float)
    rate, (variance, groups) = float(sample.mean()), _variance(sample, prompts, raters)
    # Votes that are all alike show no variance: then each cluster counts as one vote.
    count = min(float(len(sample)), rate * (1 - rate) / variance) if variance > 0 else float(groups)
    low, high = wilson(rate, count, student_quantile(groups - 1))
    p_value = 2 * stats.t.sf(abs(rate - 0.5) / np.sqrt(0.25 / count), max(1, groups - 1))
    return Share(rate, low, high, float(p_value), len(sample))


def wilson(rate: float, count: float, quantile: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion among `count` independent draws, for a quantile of the standard error."""
    shrink = 1 + quantile**2 / count
    center = (rate + quantile**2 / (2 * count)) / shrink
    reach = quantile / shrink * np.sqrt(rate * (1 - rate) / count + quantile**2 / (4 * count**2))
    return max(0.0, float(center - reach)), min(1.0, float(center + reach))


def _variance(
    sample: NDArray[np.float64], prompts: Sequence[Hashable], raters: Sequence[Hashable]
) -> tuple[float, int]:
    """Cluster-robust variance of the mean, and the number of clusters that limits its degrees of freedom."""
    over_prompts, num_prompts = _cluster_variance(sample, prompts)
    over_raters, num_raters = _cluster_variance(sample, raters)
    if num_raters < MANY_RATERS:
        return over_prompts, num_prompts
    over_both, _ = _cluster_variance(sample, list(zip(prompts, raters, strict=True)))
    # The two-way estimate can come out below a one-way estimate by chance.
    return max(over_prompts + over_raters - over_both, over_prompts, over_raters), min(num_prompts, num_raters)


def _cluster_variance(sample: NDArray[np.float64], clusters: Sequence[Hashable]) -> tuple[float, int]:
    known = {cluster: index for index, cluster in enumerate(dict.fromkeys(clusters))}
    sums = np.zeros(len(known))
    np.add.at(sums, [known[cluster] for cluster in clusters], sample - sample.mean())
    return float((sums**2).sum()) / len(sample) ** 2, len(known)
