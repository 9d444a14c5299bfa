"""Reward-hacking detection: signs that an evaluation's reward rose at the cost of the images.

There are three signs. *Hacking*: the trained reward rose while a held-out score fell, compared with the base model or
with the best evaluation so far. *Collapse*: diversity, content accuracy or another statistic lost a large share of the
base model's value. *Style*: an image statistic left the range of the base model's images.

All evaluations use the same prompts and the same noise, so images are compared pairwise and the large spread between
prompts cancels. A fall counts if it exceeds a threshold in standard errors of that paired difference. The threshold
grows with the number of comparisons of the whole run. The fall must also exceed `margin` or its share of the baseline.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

import numpy as np

from srpo_ray.config.evaluation import HackingConfig


@dataclass(frozen=True)
class Scored:
    """Scores of one evaluation for each image."""

    update: int
    """Updates made."""
    num_prompts: int
    """Number of prompts; the images are ordered by sample, then by prompt."""
    scores: Mapping[str, Sequence[float]]
    """Metric -> value for each image."""

    @cached_property
    def means(self) -> dict[str, float]:
        """Means over all images by metric."""
        return {metric: float(np.mean(values)) for metric, values in self.scores.items()}

    def spread(self, metric: str) -> float:
        """Compute the standard deviation over all images, with their number as divisor."""
        return float(np.std(self.scores[metric]))


@dataclass(frozen=True)
class HackingSign:
    """One sign of reward hacking."""

    update: int
    """Updates made."""
    kind: Literal["hacking", "collapse", "style"]
    """`hacking`: reward up, held-out score down; `collapse`: a statistic lost a large share of its baseline value;
    `style`: an image statistic left the baseline's band."""
    metric: str
    """Held-out score or image statistic."""
    message: str
    """Finding and advice, for the user."""


def find_signs(
    history: Sequence[Scored], held_out: Sequence[str], reward: str, config: HackingConfig, looks: int
) -> list[HackingSign]:
    """Find signs of reward hacking in the latest evaluation of a run.

    Args:
        history: Evaluations in order, the baseline first; without a baseline there are no signs.
        held_out: Metrics of the held-out models; higher is better.
        reward: Metric of the trained reward.
        config: Thresholds.
        looks: Evaluations that the whole run makes after the baseline; the threshold grows with their number.

    Returns:
        At most one sign per metric.
    """
    if len(history) < 2 or history[0].update != 0:
        return []
    base, now = history[0], history[-1]
    largest = {metric: share for metric, share in _largest_falls(config).items() if metric in base.scores}
    looks = max(looks, len(history) - 1)
    # The best evaluation so far is selected by its score, so a fall from it counts as a fall between any two.
    comparisons = math.comb(looks + 1, 2) * len(held_out) + looks * len(largest)
    threshold = fall_threshold(config.noise, comparisons, now.num_prompts)
    collapsed = list(_collapse(base, now, largest, threshold))
    moved = [sign for sign in _style(base, now, config) if sign.metric not in {found.metric for found in collapsed}]
    return [*_hacking(history, held_out, reward, config, threshold), *collapsed, *moved]


@cache
def fall_threshold(noise: float, comparisons: int, prompts: int) -> float:
    """Compute the number of standard errors above which one fall among many comparisons is significant.

    With Bonferroni's correction, a run in which nothing falls shows a sign of reward hacking at most as often as a
    single normal deviate exceeds `noise`. The threshold uses Student's t, because standard errors are estimated from
    few prompts.

    Args:
        noise: Standard errors required in a single comparison; 0 requires none.
        comparisons: Number of comparisons of the whole run.
        prompts: Number of prompts that a standard error is estimated from.

    Returns:
        Threshold; infinite for a single prompt, whose standard error is unknown.
    """
    if noise == 0:
        return 0.0
    if prompts < 2:
        return math.inf
    # scipy.stats takes a second to import, and the first evaluation does not need it.
    from scipy import stats

    return float(stats.t.isf(stats.norm.sf(noise) / comparisons, prompts - 1))


def best_evaluation(history: Sequence[Scored], held_out: Sequence[str]) -> Scored:
    """Find the evaluation with the highest held-out score, the earliest of equals; see `ranked_by_held_out`."""
    return ranked_by_held_out(history, held_out)[0]


def ranked_by_held_out(history: Sequence[Scored], held_out: Sequence[str]) -> list[Scored]:
    """Sort evaluations by their held-out score, the highest first and the earliest of equals first.

    Held-out models have different scales, so each counts by its gain over the baseline in standard deviations over the
    base model's images.
    """
    base = history[0]
    # A held-out model that scores all base images alike has no scale, so its gain counts 0.
    spreads = {metric: base.spread(metric) or math.inf for metric in held_out}

    def gain(evaluation: Scored) -> float:
        return sum((evaluation.means[metric] - base.means[metric]) / spread for metric, spread in spreads.items())

    return sorted(history, key=gain, reverse=True)


def sign_texts(signs: Sequence[HackingSign]) -> list[str]:
    """Format a run's signs for the user: each metric's first sign, and the updates at which it was found again."""
    by_metric: dict[tuple[str, str], list[HackingSign]] = {}
    for sign in signs:
        by_metric.setdefault((sign.kind, sign.metric), []).append(sign)
    texts = []
    for first, *others in by_metric.values():
        again = f", again at {', '.join(str(sign.update) for sign in others)}" if others else ""
        texts.append(f"update {first.update}{again}: {first.message}")
    return texts


def _largest_falls(config: HackingConfig) -> dict[str, float]:
    """Return metric -> share of the baseline mean that the metric may lose."""
    named = {"image/diversity": config.diversity_fall, "truth/content_accuracy": config.content_fall}
    others = ("saturation", "contrast", "brightness", "high_frequency")
    return named | {f"image/{name}": config.style_fall for name in others}


def _hacking(
    history: Sequence[Scored], held_out: Sequence[str], reward: str, config: HackingConfig, threshold: float
) -> Iterator[HackingSign]:
    base, now = history[0], history[-1]
    if reward not in base.scores:
        # The run trains on no reward.
        return
    best = best_evaluation(history[:-1], held_out)
    references = {"of the base model": base, f"of the best evaluation so far, at update {best.update}": best}
    for metric in held_out:
        least = config.margin * base.spread(metric)
        for whose, reference in references.items():
            fall, fall_error = _change(now, reference, metric)
            rise, rise_error = _change(reference, now, reward)
            # A sign needs both a fall and a rise, so only the rarer of the two needs the correction.
            if fall > max(threshold * fall_error, least) and rise > config.noise * rise_error:
                message = (
                    f"reward hacking: {metric} fell to {now.means[metric]:.4g} from the {reference.means[metric]:.4g}"
                    f" {whose} (by {_in_errors(fall, fall_error, threshold)}) while {reward} rose by {rise:.4g}; train"
                    " for fewer updates, with a lower training.optimizer.lr, or on other rewards or control words"
                )
                yield HackingSign(now.update, "hacking", metric, message)
                break


def _collapse(base: Scored, now: Scored, largest: Mapping[str, float], threshold: float) -> Iterator[HackingSign]:
    for metric, share in sorted(largest.items()):
        before, (fall, error) = base.means[metric], _change(now, base, metric)
        if before > 0 and fall > max(threshold * error, share * before):
            message = (
                f"collapse: {metric} fell by {fall / before:.1%}, from {before:.4g} to {now.means[metric]:.4g} (by"
                f" {_in_errors(fall, error, threshold)}), where {share:.1%} is allowed; train for fewer updates or with"
                f" a lower training.optimizer.lr, or raise evaluation.hacking.{_option(metric)} if you want this"
            )
            yield HackingSign(now.update, "collapse", metric, message)


def _option(metric: str) -> str:
    """Return the config field that limits the fall of a metric."""
    return {"image/diversity": "diversity_fall", "truth/content_accuracy": "content_fall"}.get(metric, "style_fall")


def _in_errors(fall: float, error: float, threshold: float) -> str:
    """Format a fall such as `6.3 standard errors, threshold 4.1`."""
    return f"{fall / error if error else math.inf:.1f} standard errors, threshold {threshold:.1f}"


def _style(base: Scored, now: Scored, config: HackingConfig) -> Iterator[HackingSign]:
    for metric in sorted(name for name in now.scores if name.startswith("image/") and name in base.scores):
        center, reach = base.means[metric], config.band * base.spread(metric)
        if 0 < reach < abs(now.means[metric] - center):
            message = (
                f"changed style: the mean of {metric} is {now.means[metric]:.4g}, outside the base model's"
                f" {center:.4g} ± {reach:.4g} ({config.band:g} standard deviations over its images); look at the"
                " images, and raise evaluation.hacking.band if this is what you want"
            )
            yield HackingSign(now.update, "style", metric, message)


def _change(before: Scored, after: Scored, metric: str) -> tuple[float, float]:
    """Compute the mean rise of a metric and its standard error from paired differences, averaged within prompts."""
    differences = np.subtract(after.scores[metric], before.scores[metric])
    by_prompt = differences.reshape(-1, after.num_prompts).mean(0)
    error = float(by_prompt.std(ddof=1)) / math.sqrt(len(by_prompt)) if len(by_prompt) > 1 else math.inf
    return float(by_prompt.mean()), error
