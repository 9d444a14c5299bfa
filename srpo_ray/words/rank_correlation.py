"""Spearman's rank correlation, with a bootstrap interval."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Compute Spearman's rank correlation, in [-1, 1]; 0 if all ranks are equal.

    Args:
        one: N numbers.
        other: N numbers for the same items.
    """
    return float(_spearman(np.asarray(one, dtype=float), np.asarray(other, dtype=float)))


def bootstrap_interval(
    one: Sequence[float], other: Sequence[float], *, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Compute a 90% bootstrap interval of Spearman's rank correlation.

    Args:
        one: N numbers, at least 2.
        other: N numbers for the same items.
        draws: Number of bootstrap samples of N items.
        seed: Seed of the bootstrap.

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
    """Compute the correlation of ranks along an axis; 0 instead of undefined if all ranks are equal."""
    # scipy.stats takes a second to import, and most commands do not need it.
    from scipy import stats

    first, second = stats.rankdata(one, axis=axis), stats.rankdata(other, axis=axis)
    varies = (np.ptp(first, axis=axis) > 0) & (np.ptp(second, axis=axis) > 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        found: Any = stats.pearsonr(first, second, axis=axis)
    return np.where(varies, found.statistic, 0.0)
