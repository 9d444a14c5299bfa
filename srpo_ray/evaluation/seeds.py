"""Student's t and normal quantiles, p-values, and Holm's correction for many tests."""

from collections.abc import Sequence
from functools import cache


@cache
def student_95(degrees: float) -> float:
    """Compute Student's t for a two-sided 95% interval.

    Args:
        degrees: Degrees of freedom, at least 1.
    """
    # scipy.stats takes a second to import, and drivers import this module at their start.
    from scipy import stats

    return float(stats.t.ppf(0.975, degrees))


def student_p(mean: float, error: float, degrees: float) -> float:
    """Compute the two-sided p-value of a mean of zero.

    Args:
        mean: Observed mean.
        error: Standard error of the mean.
        degrees: Degrees of freedom of the error.
    """
    from scipy import stats

    if error == 0:
        return 0.0 if mean else 1.0
    return float(2 * stats.t.sf(abs(mean) / error, degrees))


def normal_p(deviate: float) -> float:
    """Compute the two-sided p-value of a standard normal deviate."""
    from scipy import stats

    return float(2 * stats.norm.sf(abs(deviate)))


def holm(p_values: Sequence[float | None], level: float = 0.05) -> list[bool]:
    """Select the significant tests by Holm's step-down method (Scandinavian Journal of Statistics 6, 1979).

    The probability of any false positive among them is at most `level`, however the tests depend on each other.

    Args:
        p_values: One per test; None for no test, which is never significant and does not count.
        level: Family-wise error rate.
    """
    tested = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    significant = [False] * len(p_values)
    for rank, (p, index) in enumerate(tested):
        if p > level / (len(tested) - rank):
            break
        significant[index] = True
    return significant


@cache
def normal_95() -> float:
    """Return the normal quantile for a two-sided 95% interval."""
    from scipy import stats

    return float(stats.norm.ppf(0.975))
