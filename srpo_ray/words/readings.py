"""Readings of words from scores alone: pure functions over tensors `[num_words, num_images]`.

A word's *difference* of an image is `d = score("<word>. <caption>") - score("<caption>")`: what naming the word adds.
Words that a reward perceives have differences that follow something visible.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

OPPOSED = -0.5
"""Two words are opposites if their differences correlate at most this much."""


@dataclass(frozen=True)
class Reading:
    """How a reward perceives one word, or one word against another."""

    axis: str
    """The attribute that the difference correlates with most."""
    direction: int
    """1 if images with more of the attribute score higher, -1 if those with less do."""
    spread: float
    """Standard deviation of the difference over images, in standard deviations of the plain score."""
    strength: float
    """`spread * |correlation with the axis|`: by how many standard deviations of the plain score the difference
    moves when the attribute moves by one of its own."""
    cleanness: float
    """The axis's share of the variance that it and the strongest other attribute explain together: 1 is one axis
    alone, 0.5 two alike."""
    correlations: dict[str, float]
    """With every attribute, axes or not."""

    @property
    def score(self) -> float:
        """What words are ranked by: `strength * cleanness`."""
        return self.strength * self.cleanness


@dataclass(frozen=True)
class Pair:
    """Two words that a reward perceives as opposites along one axis."""

    positive: int
    """Index of the word at the high end of the axis."""
    negative: int
    """Index of the word at the low end."""
    opposition: float
    """Correlation of the two differences; -1 is perfect."""
    reading: Reading
    """Of `score("<positive>. <caption>") - score("<negative>. <caption>")`."""


def correlation(rows: Tensor, columns: Tensor) -> Tensor:
    """Correlation over images of every row with every column; 0 where one of them does not vary.

    Args:
        rows: `[R, N]`.
        columns: `[C, N]`.

    Returns:
        `[R, C]` in [-1, 1], float64.
    """
    return _standardised(rows) @ _standardised(columns).T


def _standardised(values: Tensor) -> Tensor:
    """Rows with mean 0 and length 1, or all zero if what they vary by is rounding."""
    values = values.double()
    centred = values - values.mean(dim=1, keepdim=True)
    length = centred.norm(dim=1, keepdim=True)
    varies = length > 1e-6 * values.norm(dim=1, keepdim=True)
    return torch.where(varies, centred / length.clamp(min=1e-300), 0.0)


def read_words(
    differences: Tensor, plain: Tensor, attributes: Mapping[str, Tensor], axes: Sequence[str]
) -> list[Reading]:
    """Read every word.

    With `r` for correlations over images, `x` for the axis (largest `|r(d, x)|` of `axes`) and `z` for another one,
    the part of `z` that `x` does not hold correlates with `d` by

        r(d, z | x) = (r(d, z) - r(d, x) r(x, z)) / sqrt(1 - r(x, z)^2)

    the semi-partial correlation; so `z` is not held against a word for being like `x` in these images.
    `r(d, x)^2 + r(d, z | x)^2` is the share of d's variance that both explain (the R^2 of a regression on the two), and
    `cleanness = r(d, x)^2 / (r(d, x)^2 + max over z of r(d, z | x)^2)`.

    Args:
        differences: `[W, N]`: of W words over N images.
        plain: `[N]`: scores of the captions alone.
        attributes: Name -> `[N]`: what can be measured on the images.
        axes: Names of the attributes that words are read along; the others are only correlated with.

    Raises:
        ValueError: If the plain score or all axes are the same for every image, so that nothing can be compared.
    """
    plain_spread = float(plain.double().std(correction=0))
    varying = [name for name in axes if float(_standardised(attributes[name][None]).abs().sum()) > 0]
    if plain_spread <= 1e-9 * float(plain.abs().max()) or not varying:
        what = f"in at least one of {', '.join(axes)}" if plain_spread > 0 else "in their plain score"
        raise ValueError(f"expected images that differ {what}, got {plain.numel()} that do not; give other images")
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
    """Correlations with what each axis holds beyond the strongest, `[A]`; 0 for the strongest and for copies of it."""
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
    """Opposites: words on one axis, in opposite directions, whose differences correlate at most `OPPOSED`.

    A reward that is linear in its text scores one word against another by the difference of their differences, so
    pairs need no new scores.

    Args:
        readings: What `read_words` gave for the other arguments, which are the same here.
        differences: `[W, N]`.
        plain: `[N]`.
        attributes: Name -> `[N]`.
        axes: Names of the attributes that words are read along.

    Returns:
        The pairs, the highest `reading.score` first.
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
    """A set of control words per axis: its best pairs, each word used once.

    Args:
        words: The words that the pairs count in.
        pairs: Best first.
        most: Pairs per set; SRPO cycles through both lists by update, so pairs stay together.

    Returns:
        Axis -> `{"positive": [...], "negative": [...]}`, as `word_sets` of a run config takes it.
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
