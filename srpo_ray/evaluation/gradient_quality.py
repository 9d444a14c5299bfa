"""Quality of gradient estimates: bias, variance and first-order gain, from dot products of independent gradients.

An update's gradient is an estimate with mean `m` and covariance `S`. It is compared with the gradient `t` of an
objective. Sums over distinct independent blocks estimate `|m|^2`, `|t|^2` and `<m, t>` without bias, so the noise of
the estimates does not lower the cosines.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from srpo_ray.evaluation.seeds import student_95

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GradientDots:
    """Dot products of gradients of B independent blocks of U updates, and of R independent estimates of `t`."""

    own: Array
    """Dot products of the mean gradients of two blocks, `[B, B]`."""
    cross: Array
    """Dot products of the mean gradient of a block with an estimate of `t`, `[B, R]`."""
    reference: Array
    """Dot products of two estimates of `t`, `[R, R]`."""
    scaled: Array
    """As `cross`, with each element of the updates' gradients divided by its root mean square, as Adam does."""
    squares: Array
    """Mean squared norm of a block's single updates, `[B]`."""
    cost: float
    """Velocity evaluations of an update."""

    def __post_init__(self) -> None:
        blocks, references = self.cross.shape
        if blocks < 2 or references < 2 or self.own.shape != (blocks, blocks) or self.squares.shape != (blocks,):
            raise ValueError(
                "expected dot products of at least 2 blocks of updates and 2 of the reference, got shapes"
                f" {self.own.shape}, {self.cross.shape}, {self.reference.shape} and {self.squares.shape}; measure more"
                " blocks"
            )

    def without_block(self, block: int) -> "GradientDots":
        """Leave out a block of updates."""
        kept = np.delete(np.arange(len(self.own)), block)
        return GradientDots(
            self.own[np.ix_(kept, kept)],
            self.cross[kept],
            self.reference,
            self.scaled[kept],
            self.squares[kept],
            self.cost,
        )

    def without_reference(self, index: int) -> "GradientDots":
        """Leave out an estimate of `t`."""
        kept = np.delete(np.arange(len(self.reference)), index)
        return GradientDots(
            self.own,
            self.cross[:, kept],
            self.reference[np.ix_(kept, kept)],
            self.scaled[:, kept],
            self.squares,
            self.cost,
        )


def mean_of_pairs(products: Array) -> float:
    """Estimate the squared norm of a mean from dot products of independent estimates `[K, K]`, without bias."""
    count = len(products)
    return float((products.sum() - np.trace(products)) / (count * (count - 1)))


def cosine_of_means(dots: GradientDots) -> float:
    """Estimate the cosine of the mean gradient `m` with `t`: 1 minus it is the bias of the direction.

    Returns:
        Not a number if a squared norm is estimated as 0 or less, because there are too few updates.
    """
    return _over_roots(float(dots.cross.mean()), mean_of_pairs(dots.own), mean_of_pairs(dots.reference))


def consistency(dots: GradientDots, updates: float = 1.0) -> float:
    """Estimate the cosine of the average gradient of some updates with its own mean `m`.

    It is `|m| / sqrt(E |g|^2)`, the cosine of a gradient of root mean square norm.

    Args:
        dots: Dot products.
        updates: Number of updates that are averaged; a fraction is the limit of smaller updates.
    """
    mean = mean_of_pairs(dots.own)
    return _over_roots(mean, mean, _mean_square(dots, updates))


def alignment(dots: GradientDots, updates: float = 1.0) -> float:
    """Estimate the cosine of the average gradient of some updates with `t`: `cosine_of_means * consistency`.

    Args:
        dots: Dot products.
        updates: Number of updates that are averaged.
    """
    return _over_roots(float(dots.cross.mean()), _mean_square(dots, updates), mean_of_pairs(dots.reference))


def signal_to_noise(dots: GradientDots) -> float:
    """Estimate `|m|^2 / trace(S)` of one update."""
    mean = mean_of_pairs(dots.own)
    return mean / (float(dots.squares.mean()) - mean)


def updates_within(dots: GradientDots, evaluations: float) -> float:
    """Return the number of updates that some velocity evaluations pay for, which may be a fraction."""
    return evaluations / dots.cost


def gain(dots: GradientDots) -> float:
    """Estimate the first-order gain of the objective per evaluation, for update steps of length 1."""
    return alignment(dots) * math.sqrt(max(mean_of_pairs(dots.reference), 0.0)) / dots.cost


def adam_gain(dots: GradientDots) -> float:
    """Estimate the first-order gain per evaluation with Adam, for the learning rate 1.

    Adam divides each element of the averaged gradient by the root mean square of the element over the updates.
    """
    return float(dots.scaled.mean()) / dots.cost


def _mean_square(dots: GradientDots, updates: float) -> float:
    """Mean squared norm of the average gradient of some updates: `|m|^2 + trace(S) / updates`."""
    mean = mean_of_pairs(dots.own)
    return mean + (float(dots.squares.mean()) - mean) / updates


def _over_roots(product: float, first: float, second: float) -> float:
    return product / math.sqrt(first * second) if first > 0 and second > 0 else math.nan


@dataclass(frozen=True)
class Interval:
    """Estimate with half of its 95% interval."""

    value: float
    half_width: float
    """Not a number if the value is not determined without one of the blocks."""


def with_interval(statistic: Callable[[GradientDots], float], dots: GradientDots) -> Interval:
    """Compute a statistic and its 95% interval, by the jackknife over both kinds of blocks.

    The variances of both are added, with Student's t for the smaller number of blocks.

    Args:
        statistic: Function of the dot products.
        dots: Dot products; intervals need 3 blocks of each kind, since each is left out once.
    """
    blocks, references = dots.cross.shape
    if min(blocks, references) < 3:
        return Interval(statistic(dots), math.nan)
    variance = _jackknife([statistic(dots.without_block(block)) for block in range(blocks)])
    variance += _jackknife([statistic(dots.without_reference(index)) for index in range(references)])
    return Interval(statistic(dots), student_95(min(blocks, references) - 1) * math.sqrt(variance))


def _jackknife(values: list[float]) -> float:
    """Variance of a statistic from its values without one block each."""
    found = np.asarray(values)
    return float((len(found) - 1) / len(found) * ((found - found.mean()) ** 2).sum())
