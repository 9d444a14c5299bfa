"""Whether two ways to rank the same things agree."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rank correlation: the correlation of the ranks, in [-1, 1]; 0 if all ranks are equal.

    Args:
        one: N numbers.
        other: N numbers for the same things.
    """
    return float(_spearman(np.asarray(one, dtype=float), np.asarray(other, dtype=float)))


def bootstrap_interval(
    one: Sequence[float], other: Sequence[float], *, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Interval of 90% of Spearman's rank correlations when the things are drawn anew, with replacement.

    Args:
        one: N numbers, at least 2.
        other: N numbers for the same things.
        draws: Samples of N things.
        seed: Of the draws.

    Returns:
        5th and 95th percentile.
    """
    from scipy import stats

    found = stats.bootstrap(
        (np.asarray(one, dtype=float), np.asarray(other, dtype=float)),
        _spearman,
        paired=True,
        vectorized=True,
        n_resamples=draws,
        confidence_level=0.9,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = found.confidence_interval
    return float(low), float(high)


def _spearman(one: np.ndarray, other: np.ndarray, axis: int = -1) -> Any:
    """Correlation of ranks along an axis; where all ranks are equal it is 0 and not undefined."""
    # scipy.stats takes a second to import, and most commands rank nothing.
    from scipy import stats

    first, second = stats.rankdata(one, axis=axis), stats.rankdata(other, axis=axis)
    varies = (np.ptp(first, axis=axis) > 0) & (np.ptp(second, axis=axis) > 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        found: Any = stats.pearsonr(first, second, axis=axis)
    return np.where(varies, found.statistic, 0.0)
