"""Readings of words from scores: pure functions over tensors `[num_words, num_images]`.

A word's *difference* for an image is `d = score("<word>. <caption>") - score("<caption>")`: the effect of the word.
If a reward perceives a word, its differences correlate with a visible attribute.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

OPPOSED = -0.5
"""Maximum correlation of the differences of two opposites."""


@dataclass(frozen=True)
class Reading:
    """Response of a reward to one word, or to one word against another."""

    axis: str
    """Attribute with the strongest correlation with the difference."""
    direction: int
    """1 if images with more of the attribute score higher, -1 if those with less do."""
    spread: float
    """Standard deviation of the difference over images, in standard deviations of the plain score."""
    strength: float
    """`spread * |correlation with the axis|`: change of the difference, in standard deviations of the plain score, per
    standard deviation of the attribute."""
    cleanness: float
    """The axis's share of the variance that it and the strongest other attribute explain together: 1 for a single
    axis, 0.5 for two equal ones."""
    correlations: dict[str, float]
    """Correlations with all attributes, including those that are not axes."""

    @property
    def score(self) -> float:
        """Rank criterion of words: `strength * cleanness`."""
        return self.strength * self.cleanness


@dataclass(frozen=True)
class Pair:
    """Two words to which a reward responds as opposites along one axis."""

    positive: int
    """Index of the word at the high end of the axis."""
    negative: int
    """Index of the word at the low end."""
    opposition: float
    """Correlation of the two differences; -1 is perfect."""
    reading: Reading
    """Reading of `score("<positive>. <caption>") - score("<negative>. <caption>")`."""


def correlation(rows: Tensor, columns: Tensor) -> Tensor:
    """Compute the correlation over images of every row with every column; 0 if either does not vary.

    Args:
        rows: `[R, N]`.
        columns: `[C, N]`.

    Returns:
        `[R, C]` in [-1, 1], float64.
    """
    return _standardised(rows) @ _standardised(columns).T


def _standardised(values: Tensor) -> Tensor:
    """Scale rows to mean 0 and length 1, or to zero if they vary only by rounding."""
    values = values.double()
    centred = values - values.mean(dim=1, keepdim=True)
    length = centred.norm(dim=1, keepdim=True)
    varies = length > 1e-6 * values.norm(dim=1, keepdim=True)
    return torch.where(varies, centred / length.clamp(min=1e-300), 0.0)


def read_words(
    differences: Tensor, plain: Tensor, attributes: Mapping[str, Tensor], axes: Sequence[str]
) -> list[Reading]:
    """Compute the reading of every word.

    With `r` for correlations over images, `x` for the axis (largest `|r(d, x)|` of `axes`) and `z` for another one,
    the part of `z` that is independent of `x` correlates with `d` by

        r(d, z | x) = (r(d, z) - r(d, x) r(x, z)) / sqrt(1 - r(x, z)^2)

    the semi-partial correlation. A correlation of `z` with `x` in these images therefore does not reduce the cleanness.
    `r(d, x)^2 + r(d, z | x)^2` is the share of d's variance that both explain (the R^2 of a regression on the two), and
    `cleanness = r(d, x)^2 / (r(d, x)^2 + max over z of r(d, z | x)^2)`.

    Args:
        differences: Differences `[W, N]` of W words over N images.
        plain: Scores `[N]` of the captions alone.
        attributes: Name -> attribute `[N]` of the images.
        axes: Names of the attributes that serve as axes; for the others only correlations are computed.

    Raises:
        ValueError: If the plain score, or every axis, is constant over the images.
    """
    plain_spread = float(plain.double().std(correction=0))
    varying = [name for name in axes if float(_standardised(attributes[name][None]).abs().sum()) > 0]
    if plain_spread <= 1e-9 * float(plain.abs().max()) or not varying:
        what = f"in at least one of {', '.join(axes)}" if plain_spread > 0 else "in their plain score"
        raise ValueError(f"expected images that differ {what}, got {plain.numel()} equal ones; give other images")
    names = list(attributes)
    with_all = correlation(differences, torch.stack(list(attributes.values())))
    axis_values = torch.stack([attributes[name] for name in varying])
    with_axes, between = correlation(differences, axis_values), correlation(axis_values, axis_values)
    spreads = differences.double().std(dim=1, correction=0) / plain_spread
    readings = []
    for word, row in enumerate(with_axes):
        on = int(row.abs().argmax())
        strongest = float(row[on])
        beside = _semi_partial(row, between[on], on)
        explained = strongest**2 + float(beside.abs().max()) ** 2
        readings.append(
            Reading(
                axis=varying[on],
                direction=1 if strongest >= 0 else -1,
                spread=float(spreads[word]),
                strength=float(spreads[word]) * abs(strongest),
                cleanness=strongest**2 / explained if explained else 0.0,
                correlations=dict(zip(names, with_all[word].tolist(), strict=True)),
            )
        )
    return readings


def _semi_partial(with_axes: Tensor, with_strongest: Tensor, on: int) -> Tensor:
    """Compute semi-partial correlations `[A]` with each axis given the strongest; 0 for that axis and its copies."""
    rest = 1 - with_strongest.square()
    beyond = (with_axes - with_axes[on] * with_strongest) / rest.clamp(min=1e-300).sqrt()
    return torch.where(rest > 1e-6, beyond, 0.0)


def find_pairs(
    readings: Sequence[Reading],
    differences: Tensor,
    plain: Tensor,
    attributes: Mapping[str, Tensor],
    axes: Sequence[str],
) -> list[Pair]:
    """Find opposites: words on one axis, in opposite directions, whose differences correlate at most `OPPOSED`.

    A reward that is linear in its text scores one word against another by the difference of their differences, so
    pairs need no new scores.

    Args:
        readings: Result of `read_words` for the other arguments.
        differences: `[W, N]`.
        plain: `[N]`.
        attributes: Name -> `[N]`.
        axes: Names of the attributes that serve as axes.

    Returns:
        Pairs, the highest `reading.score` first.
    """
    cross_talk = correlation(differences, differences)
    pairs = []
    for first, second in combinations(range(len(readings)), 2):
        one, other, opposition = readings[first], readings[second], float(cross_talk[first, second])
        if one.axis != other.axis or one.direction == other.direction or opposition > OPPOSED:
            continue
        positive, negative = (first, second) if one.direction > 0 else (second, first)
        difference = (differences[positive] - differences[negative])[None]
        pairs.append(Pair(positive, negative, opposition, read_words(difference, plain, attributes, axes)[0]))
    return sorted(pairs, key=lambda pair: -pair.reading.score)


def word_sets(words: Sequence[str], pairs: Sequence[Pair], most: int = 2) -> dict[str, dict[str, list[str]]]:
    """Build a set of control words per axis from its best pairs, each word used once.

    Args:
        words: Words that the pairs index.
        pairs: Pairs, best first.
        most: Maximum number of pairs per set; SRPO cycles through both lists in step, so pairs stay together.

    Returns:
        Axis -> `{"positive": [...], "negative": [...]}`, in the format of `word_sets` of a run config.
    """
    sets: dict[str, dict[str, list[str]]] = {}
    for pair in pairs:
        chosen = sets.setdefault(pair.reading.axis.rpartition("/")[2], {"positive": [], "negative": []})
        positive, negative = words[pair.positive], words[pair.negative]
        used = positive in chosen["positive"] or negative in chosen["negative"]
        if not used and len(chosen["positive"]) < most:
            chosen["positive"].append(positive)
            chosen["negative"].append(negative)
    return sets
