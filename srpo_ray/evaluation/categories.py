"""Means and comparisons of models by categories of prompts, such as the tasks of GenEval, and over categories."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from srpo_ray.evaluation.paired import Values
from srpo_ray.evaluation.seeds import student_95, student_p

OVERALL = "overall"
"""Mean over categories, each with equal weight, as GenEval defines its overall score."""


@dataclass(frozen=True)
class CategoryScores:
    """Scores of one metric by categories of prompts. A prompt may belong to several categories, or to none."""

    metric: str
    prompts: Mapping[str, Sequence[int]]
    """Category -> indices of its prompts."""
    values: Mapping[str, Mapping[str, Values]]
    """Category -> model -> `[prompts of the category][samples]`; the first model is the reference."""


@dataclass(frozen=True)
class CategoryComparison:
    """One category of a model compared with the reference model."""

    category: str
    num_prompts: int
    model: str
    reference: str
    mean: float
    reference_mean: float
    half_width: float | None
    """Half width of the difference's 95% interval, Student's t over prompts; None if a single prompt has no equal."""
    p_value: float | None
    """Two-sided p-value of no difference, by the same t."""

    @property
    def difference(self) -> float:
        """Mean of the model minus mean of the reference."""
        return self.mean - self.reference_mean


@dataclass(frozen=True)
class CategoryMean:
    """One category of a model that is compared with no other."""

    category: str
    num_prompts: int
    mean: float
    half_width: float | None
    """Half width of the mean's 95% interval, Student's t over prompts; None if a single prompt has no equal."""


def category_means(scores: CategoryScores) -> list[CategoryMean]:
    """Average the first model's values in each category, and then over the categories."""
    model = next(iter(next(iter(scores.values.values()))))
    values = {
        category: dict(zip(scores.prompts[category], map(fmean, columns[model]), strict=True))
        for category, columns in scores.values.items()
    }
    rows = [
        CategoryMean(category, len(own), fmean(own.values()), _interval({category: own})[0])
        for category, own in values.items()
    ]
    count = len({prompt for own in values.values() for prompt in own})
    return [*rows, CategoryMean(OVERALL, count, fmean(row.mean for row in rows), _interval(values)[0])]


def compare_categories(scores: CategoryScores) -> list[CategoryComparison]:
    """Compare every model with the first one in each category, and then overall."""
    reference, *models = next(iter(scores.values.values()))
    return [row for model in models for row in _compare(scores, model, reference)]


def _compare(scores: CategoryScores, model: str, reference: str) -> list[CategoryComparison]:
    gaps: dict[str, dict[int, float]] = {}
    means: dict[str, tuple[float, float]] = {}
    for category, columns in scores.values.items():
        ours, theirs = ([fmean(samples) for samples in columns[name]] for name in (model, reference))
        pairs = zip(scores.prompts[category], ours, theirs, strict=True)
        gaps[category] = {prompt: a - b for prompt, a, b in pairs}
        means[category] = fmean(ours), fmean(theirs)
    rows = [
        CategoryComparison(category, len(own), model, reference, *means[category], *_interval({category: own}))
        for category, own in gaps.items()
    ]
    overall = fmean(mean for mean, _ in means.values()), fmean(mean for _, mean in means.values())
    count = len({prompt for own in gaps.values() for prompt in own})
    return [*rows, CategoryComparison(OVERALL, count, model, reference, *overall, *_interval(gaps))]


def _interval(gaps: Mapping[str, Mapping[int, float]]) -> tuple[float | None, float | None]:
    """Half width and p-value of the mean over categories of differences, or of a model's own values.

    The prompts of a stratum belong to the same categories. Each contributes the sum of its shares of these categories'
    means, so that a prompt of several categories counts as one observation. Strata are independent; their variances add
    with the degrees of freedom of Welch and Satterthwaite.

    Args:
        gaps: Category -> prompt -> its mean difference, or mean.
    """
    shares: dict[int, float] = defaultdict(float)
    members: dict[int, list[str]] = defaultdict(list)
    for category, own in gaps.items():
        for prompt, gap in own.items():
            shares[prompt] += gap / len(own) / len(gaps)
            members[prompt].append(category)
    strata: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for prompt, share in shares.items():
        strata[tuple(members[prompt])].append(share)
    if any(len(stratum) < 2 for stratum in strata.values()):
        return None, None
    squares = [(len(stratum) * variance(stratum), len(stratum) - 1) for stratum in strata.values()]
    total = sum(square for square, _ in squares)
    parts = sum(square**2 / degrees for square, degrees in squares)
    degrees = total**2 / parts if parts else float(sum(degrees for _, degrees in squares))
    error = math.sqrt(total)
    return student_95(degrees) * error, student_p(sum(shares.values()), error, degrees)
