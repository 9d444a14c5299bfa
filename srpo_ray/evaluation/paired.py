"""Paired comparison of two models on the same prompts and noise: differences and win rates with 95% intervals.

Prompts are the unit: images of one prompt are correlated, so they are averaged first. An interval describes the spread
over *prompts*: another draw of prompts from the same source, not another training run.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pvariance, stdev

from srpo_ray.evaluation.seeds import holm, normal_95, normal_p, student_95, student_p

Values = Sequence[Sequence[float]]
"""Values of one metric of one model: `[prompts][samples]`."""


@dataclass(frozen=True)
class WinRate:
    """Share of pairs in which the first model's value is higher; a tie counts half."""

    rate: float
    low: float
    high: float
    """Ends of the 95% interval."""
    p_value: float
    """Two-sided p-value of a rate of one half, by the score test that corresponds to the interval."""


@dataclass(frozen=True)
class Comparison:
    """One metric of a model compared with the reference model."""

    metric: str
    model: str
    reference: str
    mean: float
    reference_mean: float
    half_width: float | None
    """Half width of the difference's 95% interval, Student's t over prompts; None for a single prompt."""
    p_value: float | None
    """Two-sided p-value of no difference, by the same t; None for a single prompt."""
    wins: WinRate

    @property
    def difference(self) -> float:
        """Mean of the model minus mean of the reference."""
        return self.mean - self.reference_mean


@dataclass(frozen=True)
class ModelMean:
    """Mean of one metric of a model that is compared with no other."""

    metric: str
    mean: float
    half_width: float | None
    """Half width of the mean's 95% interval, Student's t over prompts; None for a single prompt."""


@dataclass(frozen=True)
class Cells:
    """Significance of a comparison's difference and win rate, with Holm's correction over the whole table."""

    difference: bool
    wins: bool


def significant_cells(found: Sequence[Comparison]) -> list[Cells]:
    """Test all differences and win rates of a table jointly."""
    significant = holm([p for each in found for p in (each.p_value, each.wins.p_value)])
    return [Cells(*significant[index : index + 2]) for index in range(0, len(significant), 2)]


def compare(metric: str, model: str, values: Values, reference: str, reference_values: Values) -> Comparison:
    """Compare two models by paired images of the same prompts and noise.

    Args:
        metric: Name of the metric.
        model: Name of the model.
        values: Values of the model, `[prompts][samples]`.
        reference: Name of the reference model.
        reference_values: Values of the reference model, for the same prompts and noise.
    """
    gaps = [
        fmean(a - b for a, b in zip(ours, theirs, strict=True))
        for ours, theirs in zip(values, reference_values, strict=True)
    ]
    degrees = len(gaps) - 1
    error = stdev(gaps) / math.sqrt(len(gaps)) if degrees else None
    mean, reference_mean = (fmean(fmean(samples) for samples in each) for each in (values, reference_values))
    return Comparison(
        metric,
        model,
        reference,
        mean,
        reference_mean,
        None if error is None else student_95(degrees) * error,
        None if error is None else student_p(fmean(gaps), error, degrees),
        win_rate(values, reference_values),
    )


def model_mean(metric: str, values: Values) -> ModelMean:
    """Average the images of each prompt, then the prompts.

    Args:
        metric: Name of the metric.
        values: Values of the model, `[prompts][samples]`.
    """
    means = [fmean(samples) for samples in values]
    degrees = len(means) - 1
    error = stdev(means) / math.sqrt(len(means)) if degrees else None
    return ModelMean(metric, fmean(means), None if error is None else student_95(degrees) * error)


def win_rate(values: Values, reference_values: Values) -> WinRate:
    """Compute the share of won pairs, averaged within each prompt, then over prompts.

    The interval is Wilson's with an effective sample size: the number of independent pairs that would give the rate the
    variance that the prompts show (Franco and others, J. Survey Statistics and Methodology 7, 2019, for clustered
    samples). With one image per prompt and no tie it is Wilson's interval. It lies inside [0, 1], and is not a single
    point if all pairs are won.

    Args:
        values: `[prompts][samples]` of the model.
        reference_values: `[prompts][samples]` of the reference model.
    """
    shares = [
        fmean(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(ours, theirs, strict=True))
        for ours, theirs in zip(values, reference_values, strict=True)
    ]
    rate, spread = fmean(shares), pvariance(shares)
    # The effective size is at most the number of pairs. If all prompts are alike, it is the number of prompts.
    pairs = sum(len(samples) for samples in values)
    count = min(pairs, rate * (1 - rate) / spread * len(shares)) if spread else len(shares)
    return WinRate(rate, *_wilson(rate, count), normal_p((rate - 0.5) / math.sqrt(0.25 / count)))


def _wilson(rate: float, count: float) -> tuple[float, float]:
    """Compute Wilson's 95% score interval of a proportion among `count` independent draws.

    `scipy.stats.binomtest` supports integer counts only, and an effective sample size is not an integer.
    """
    z = normal_95()
    shrink = 1 + z**2 / count
    center = (rate + z**2 / (2 * count)) / shrink
    reach = z / shrink * math.sqrt(rate * (1 - rate) / count + z**2 / (4 * count**2))
    return max(0.0, center - reach), min(1.0, center + reach)


@dataclass(frozen=True)
class PairedEvaluation:
    """Scores of several models on the same prompts and noise, as plain values."""

    models: Sequence[str]
    """Names of the models; the first is the reference for all others."""
    prompts: Sequence[str]
    scores: Mapping[str, Mapping[str, Values]]
    """Metric -> model -> `[prompts][samples]`."""
    objective: str
    """Metric that images are ordered by: the first held-out score, or the trained reward without held-out models."""
    settings: Mapping[str, object]
    """Settings that the images depend on, for the report."""
    created: str
    command: str
    conditioning: Sequence[str] = ()
    """Texts that conditioned the models, one for each prompt; empty if they are the prompts."""

    @property
    def rewritten(self) -> bool:
        """True if the models read another text than the rewards for any prompt."""
        return bool(self.conditioning) and list(self.conditioning) != list(self.prompts)

    @property
    def num_samples(self) -> int:
        """Images per prompt and model."""
        return len(self.scores[self.objective][self.models[0]][0])

    @property
    def comparisons(self) -> list[Comparison]:
        """Compare every other model with the reference, for every metric."""
        reference, *others = self.models
        return [
            compare(metric, model, columns[model], reference, columns[reference])
            for metric, columns in self.scores.items()
            for model in others
        ]

    @property
    def means(self) -> list[ModelMean]:
        """Mean of the first model, for every metric."""
        return [model_mean(metric, columns[self.models[0]]) for metric, columns in self.scores.items()]

    def comparison(self, metric: str, model: str) -> Comparison:
        """Return the comparison of one metric and model."""
        columns, reference = self.scores[metric], self.models[0]
        return compare(metric, model, columns[model], reference, columns[reference])

    def ranked(self) -> list[tuple[float, int, int]]:
        """List (objective, prompt, sample) of every image of the first model, highest first."""
        values = self.scores[self.objective][self.models[0]]
        images = [(value, prompt, sample) for prompt, row in enumerate(values) for sample, value in enumerate(row)]
        return sorted(images, key=lambda image: (-image[0], image[1], image[2]))

    def gaps(self, model: str) -> list[tuple[float, int, int]]:
        """List (difference of the objective from the reference, prompt, sample) of every pair, most improved first."""
        ours, theirs = self.scores[self.objective][model], self.scores[self.objective][self.models[0]]
        pairs = [
            (ours[prompt][sample] - theirs[prompt][sample], prompt, sample)
            for prompt in range(len(self.prompts))
            for sample in range(self.num_samples)
        ]
        return sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2]))
