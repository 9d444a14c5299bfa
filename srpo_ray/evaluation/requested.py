"""Metrics of evaluated images from scores that reward models may still be computing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from srpo_ray.rewards.base import PendingValues, ScoreRequest
from srpo_ray.rewards.query import TextQuery


@dataclass(frozen=True)
class MetricsRequest:
    """Request to the reward models, and the metrics that its scores are."""

    request: ScoreRequest
    metrics: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    """Function from scores by model to metrics by name."""


def plain_scores(prompts: Sequence[str], weights: Mapping[str, float]) -> MetricsRequest:
    """Request the scores of all models: `reward/<model>` or `evaluator/<model>`, and `reward/total`.

    Args:
        prompts: B prompts.
        weights: Trained model -> weight; all other models are evaluators.
    """
    return MetricsRequest(ScoreRequest(list(map(TextQuery.plain, prompts))), partial(_named, weights))


def relative_scores(
    queries: Sequence[TextQuery], readers: Sequence[str], weights: Mapping[str, float]
) -> MetricsRequest:
    """Request the relative scores of the models that read text: the names of `plain_scores` with `/relative`.

    Args:
        queries: B relative queries.
        readers: Models that read text.
        weights: Trained model -> weight.
    """
    read = {name: weight for name, weight in weights.items() if name in readers}

    def metrics(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f"{name}/relative": values for name, values in _named(read, scores).items()}

    return MetricsRequest(ScoreRequest(queries, readers), metrics)


def total_score(metric: str, queries: Sequence[TextQuery], weights: Mapping[str, float]) -> MetricsRequest:
    """Request the weighted sum of the trained models' scores.

    Args:
        metric: Name of the metric.
        queries: B text queries.
        weights: Trained model -> weight.
    """
    return MetricsRequest(ScoreRequest(queries, list(weights)), lambda scores: {metric: _total(weights, scores)})


class PendingMetrics:
    """Metrics of images whose scores may still be in computation."""

    def __init__(
        self, requests: Sequence[MetricsRequest], pending: Sequence[PendingValues], others: Mapping[str, Tensor]
    ) -> None:
        """Keep the requests.

        Args:
            requests: What was requested.
            pending: Scores of each request.
            others: Metric name -> values `[B]` that need no scores.
        """
        self._requests = requests
        self._pending = pending
        self._others = others

    def result(self) -> dict[str, Tensor]:
        """Wait for the scores: metric name -> one value per image `[B]`, on the CPU.

        Raises:
            RewardError: As `PendingScore.result`.
        """
        metrics: dict[str, Tensor] = {}
        for request, pending in zip(self._requests, self._pending, strict=True):
            metrics |= request.metrics(pending.result())
        return {name: values.float().cpu() for name, values in {**metrics, **self._others}.items()}


def _named(weights: Mapping[str, float], scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the scores by metric name, and the weighted sum of the trained models' scores."""
    metrics = {f"{'reward' if name in weights else 'evaluator'}/{name}": values for name, values in scores.items()}
    total = {"reward/total": _total(weights, scores)} if weights else {}
    return metrics | total


def _total(weights: Mapping[str, float], scores: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([weight * scores[name] for name, weight in weights.items()]).sum(0)
