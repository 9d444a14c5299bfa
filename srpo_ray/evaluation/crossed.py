"""Intervals of means over training seeds and prompts together, where every run scores the same prompts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean as exact_mean
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Values = Sequence[Sequence[float] | Array] | Array
"""Values of one metric, `[seeds][prompts]`."""

Counted = Literal["seeds and prompts", "prompts only", "seeds only", "nothing"]


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds and prompts with its 95% interval, and beside it the standard deviation over seeds alone."""

    mean: float
    half_width: float | None
    """Half of the 95% interval of the mean for other seeds and other prompts; None for a single value."""
    p_value: float | None
    """Two-sided p-value of a mean of zero, by the test that corresponds to the interval; None for a single value."""
    spread: float | None
    """Standard deviation over seeds of a run's mean over prompts; None for a single seed."""
    num_seeds: int
    num_prompts: int
    """1 if no scores by prompt are known."""

    @property
    def counted(self) -> Counted:
        """Sources of variation that the interval counts."""
        if self.spread is None:
            return "prompts only" if self.num_prompts > 1 else "nothing"
        return "seeds and prompts" if self.num_prompts > 1 else "seeds only"


def mean_over(values: Values) -> Estimate:
    """Estimate the mean over seeds and prompts.

    Args:
        values: `[seeds][prompts]`: of one arm, or differences of two arms that share their seeds.
    """
    return _estimate([np.asarray(values, dtype=float)])


def difference_between(values: Values, others: Values) -> Estimate:
    """Estimate the difference of two arms that are trained with different seeds, paired by prompt.

    Both arms are assumed to vary equally from seed to seed, so that an arm with a single seed can be compared.

    Args:
        values: `[seeds][prompts]` of one arm.
        others: `[other seeds][prompts]` of the other arm, which is subtracted.
    """
    return _estimate([np.asarray(values, dtype=float), np.asarray(others, dtype=float)])


def difference_by_seed(ours: Mapping[int, Sequence[float]], theirs: Mapping[int, Sequence[float]]) -> Estimate | None:
    """Estimate the difference of two arms, paired by seed where they share two seeds or more.

    Two arms with one run each of the same seed are paired by it too; other arms are compared without pairs of seeds.

    Args:
        ours: Seed -> values by prompt of one arm.
        theirs: Seed -> values of the other arm, which are subtracted.

    Returns:
        None if an arm has no run.
    """
    shared = [seed for seed in ours if seed in theirs]
    if len(shared) > 1 or (shared and len(ours) == len(theirs) == 1):
        return mean_over(np.subtract([ours[seed] for seed in shared], [theirs[seed] for seed in shared]))
    return difference_between([*ours.values()], [*theirs.values()]) if ours and theirs else None


def intervals(groups: Sequence[Array]) -> tuple[Array, Array, Array]:
    """Compute means, or differences of two groups, with 95% intervals for many tables at once.

    Seeds and prompts are crossed random effects. The variance of the mean is the sum of the prompts' part
    (variance over prompts of the mean over seeds, which contains the residual) and the seeds' part without its
    residual, cut at 0; the degrees of freedom are Satterthwaite's. Few seeds often show a variance of zero by chance.
    The interval is therefore at least as wide as that over seeds alone, which is exact where prompts do not matter.

    Args:
        groups: One array `[..., S, P]`, or two with the same prompts, of which the second is subtracted.

    Returns:
        Means, half widths and p-values of a mean of zero, each `[...]`. NaN in the last two if S = P = 1.
    """
    columns = groups[0].mean(-2) - (groups[1].mean(-2) if len(groups) > 1 else 0.0)
    mean, num_prompts = columns.mean(-1), columns.shape[-1]
    degrees = sum(group.shape[-2] - 1 for group in groups)
    prompts = columns.var(-1, ddof=1) / num_prompts if num_prompts > 1 else np.zeros_like(mean)
    if not degrees:
        return mean, *_student(mean, prompts, np.asarray(num_prompts - 1.0))
    share = sum(1 / group.shape[-2] for group in groups)
    seeds = np.asarray(share * sum(_squares_of_runs(group) for group in groups) / degrees)
    over_seeds = _student(mean, seeds, np.asarray(float(degrees)))
    if num_prompts == 1:
        return mean, *over_seeds
    squares = np.asarray(sum(_squares_of_residuals(group) for group in groups))
    residual = share * squares / (degrees * (num_prompts - 1))
    over_both = _student(mean, *_satterthwaite(prompts, seeds, residual, num_prompts - 1, degrees))
    return mean, np.maximum(over_both[0], over_seeds[0]), np.maximum(over_both[1], over_seeds[1])


def _satterthwaite(
    prompts: Array, seeds: Array, residual: Array, prompt_degrees: int, seed_degrees: int
) -> tuple[Array, Array]:
    """Variance of the mean and its degrees of freedom, from the parts of prompts, seeds and residual in it."""
    vary = seeds > residual
    variance = prompts + np.where(vary, seeds - residual, 0.0)
    squares = prompts**2 / prompt_degrees
    squares = squares + np.where(vary, seeds**2 + residual**2 / prompt_degrees, 0.0) / seed_degrees
    return variance, np.maximum(np.divide(variance**2, squares, out=np.ones_like(squares), where=squares > 0), 1.0)


def _squares_of_runs(group: Array) -> Array:
    """Sum of squared deviations of the runs' means over prompts."""
    runs = group.mean(-1)
    return ((runs - runs.mean(-1, keepdims=True)) ** 2).sum(-1)


def _squares_of_residuals(group: Array) -> Array:
    """Sum of squared deviations from the sum of both effects, in units of the variance of a run's mean."""
    effects = group.mean(-1, keepdims=True) + group.mean(-2, keepdims=True) - group.mean((-2, -1), keepdims=True)
    return ((group - effects) ** 2).sum((-2, -1)) / group.shape[-1]


def _student(mean: Array, variance: Array, degrees: Array) -> tuple[Array, Array]:
    """Half of the 95% interval and the p-value by Student's t; NaN without a degree of freedom."""
    # scipy.stats takes a second to import, and drivers import this module at their start.
    from scipy import stats

    error = np.sqrt(variance)
    # Equal values have no error: any mean other than zero is then certain.
    ratio = np.divide(abs(mean), error, out=np.where(mean != 0, np.inf, 0.0), where=error > 0)
    return stats.t.ppf(0.975, degrees) * error, 2 * stats.t.sf(ratio, degrees)


def _estimate(groups: Sequence[Array]) -> Estimate:
    _, half_width, p_value = (float(value) for value in intervals(groups))
    # Exactly rounded means: targets of costs are compared with the very scores that they are means of.
    means = [exact_mean(group.ravel().tolist()) for group in groups]
    mean = means[0] - (means[1] if len(means) > 1 else 0.0)
    degrees = sum(len(group) - 1 for group in groups)
    spread = math.sqrt(sum(float(_squares_of_runs(group)) for group in groups) / degrees) if degrees else None
    known = not math.isnan(half_width)
    return Estimate(
        mean,
        half_width if known else None,
        p_value if known else None,
        spread,
        min(len(group) for group in groups),
        groups[0].shape[-1],
    )
