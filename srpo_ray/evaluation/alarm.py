"""The hacking alarm: does an evaluation show a reward that is pleased at the pictures' cost?

Two signs are looked for. *Hacking*: the trained reward rose while a held-out score fell, since the untrained model or
since the best evaluation so far. *Style*: an image statistic left the range of the untrained model's pictures.

All evaluations use the same prompts and the same noise, so pictures are compared pair by pair and the large spread
between prompts cancels. A change counts when it exceeds `noise` standard errors of that paired difference; a fall must
also be worth speaking of, at least `margin` standard deviations over the untrained model's pictures.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from srpo_ray.config.evaluation import AlarmConfig


@dataclass(frozen=True)
class Scored:
    """One evaluation, picture by picture."""

    step: int
    """Updates made."""
    num_prompts: int
    """Pictures come sample by sample, each with all prompts in one order."""
    scores: Mapping[str, Sequence[float]]
    """Metric -> its value for each picture."""


@dataclass(frozen=True)
class Alarm:
    """One sign of hacking."""

    step: int
    """Updates made."""
    kind: Literal["hacking", "style"]
    """`hacking`: reward up, held-out score down; `style`: an image statistic left its band."""
    metric: str
    """The held-out score or image statistic."""
    message: str
    """What was seen and what to do, for people."""


def find_alarms(history: Sequence[Scored], held_out: Sequence[str], reward: str, config: AlarmConfig) -> list[Alarm]:
    """Judge the last evaluation of a run.

    Args:
        history: Evaluations in order, the untrained model's first; without that one nothing can be said.
        held_out: Metrics of the held-out models; higher is better.
        reward: Metric of the reward that is trained.
        config: Thresholds.

    Returns:
        At most one alarm per metric.
    """
    if len(history) < 2 or history[0].step != 0:
        return []
    return [*_hacking(history, held_out, reward, config), *_style(history[0], history[-1], config)]


def best_evaluation(history: Sequence[Scored], held_out: Sequence[str]) -> Scored:
    """The evaluation with the highest held-out score, the earliest of equals.

    Held-out models have scales of their own, so each counts by its gain over the untrained model in standard deviations
    over that model's pictures.
    """
    base = history[0]

    def gain(evaluation: Scored) -> float:
        # A judge that likes all untrained pictures alike has no scale to count in.
        spreads = {metric: _spread(base, metric) or math.inf for metric in held_out}
        return sum((_mean(evaluation, metric) - _mean(base, metric)) / spread for metric, spread in spreads.items())

    return max(history, key=gain)


def alarm_texts(alarms: Sequence[Alarm]) -> list[str]:
    """A run's alarms for people: each metric's first one, and when it rang again."""
    by_metric: dict[tuple[str, str], list[Alarm]] = {}
    for alarm in alarms:
        by_metric.setdefault((alarm.kind, alarm.metric), []).append(alarm)
    texts = []
    for first, *others in by_metric.values():
        again = f", again at {', '.join(str(alarm.step) for alarm in others)}" if others else ""
        texts.append(f"update {first.step}{again}: {first.message}")
    return texts


def _hacking(history: Sequence[Scored], held_out: Sequence[str], reward: str, config: AlarmConfig) -> Iterator[Alarm]:
    base, now = history[0], history[-1]
    best = best_evaluation(history[:-1], held_out)
    references = {"of the untrained model": base, f"of the best evaluation so far, at update {best.step}": best}
    for metric in held_out:
        least = config.margin * _spread(base, metric)
        for whose, reference in references.items():
            fall, fall_error = _change(now, reference, metric)
            rise, rise_error = _change(reference, now, reward)
            if fall > max(config.noise * fall_error, least) and rise > config.noise * rise_error:
                message = (
                    f"reward hacking: {metric} fell to {_mean(now, metric):.4g} from the {_mean(reference, metric):.4g}"
                    f" {whose} (standard error {fall_error:.4g}) while {reward} rose by {rise:.4g}; train for fewer"
                    " updates, with a lower training.optimizer.lr, or on other rewards or control words"
                )
                yield Alarm(now.step, "hacking", metric, message)
                break


def _style(base: Scored, now: Scored, config: AlarmConfig) -> Iterator[Alarm]:
    for metric in sorted(name for name in now.scores if name.startswith("image/") and name in base.scores):
        center, reach = _mean(base, metric), config.band * _spread(base, metric)
        if 0 < reach < abs(_mean(now, metric) - center):
            message = (
                f"changed style: the mean of {metric} is {_mean(now, metric):.4g}, outside the untrained model's"
                f" {center:.4g} ± {reach:.4g} ({config.band:g} standard deviations over its pictures); look at the"
                " pictures, and raise evaluation.alarm.band if this is what you want"
            )
            yield Alarm(now.step, "style", metric, message)


def _change(before: Scored, after: Scored, metric: str) -> tuple[float, float]:
    """Mean rise of a metric and its standard error, from paired differences; pictures of a prompt count as one."""
    differences = [b - a for a, b in zip(before.scores[metric], after.scores[metric], strict=True)]
    prompts = after.num_prompts
    by_prompt = [fmean(differences[prompt::prompts]) for prompt in range(prompts)]
    error = _deviation(by_prompt) / math.sqrt(prompts - 1) if prompts > 1 else math.inf
    return fmean(by_prompt), error


def _mean(evaluation: Scored, metric: str) -> float:
    return fmean(evaluation.scores[metric])


def _spread(evaluation: Scored, metric: str) -> float:
    return _deviation(evaluation.scores[metric])


def _deviation(values: Sequence[float]) -> float:
    """Standard deviation, with the number of values as divisor."""
    center = fmean(values)
    return math.sqrt(fmean([(value - center) ** 2 for value in values]))
