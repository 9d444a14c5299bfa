"""Rewards inside the trainer's process: for tests, single-process runs and as the baseline of overhead measurements."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Generic, TypeVar

from torch import Tensor

from srpo_ray.config.rewards import RewardModelConfig
from srpo_ray.rewards.autograd import connect_scores
from srpo_ray.rewards.base import Reward, ScoreRequest, Scores
from srpo_ray.rewards.checks import check_batch, check_gradient, check_names, check_pairs, check_requests
from srpo_ray.rewards.combine import score_and_gradient, score_only
from srpo_ray.rewards.comparison import compare_pairs, is_pairwise
from srpo_ray.rewards.input_spec import InputSpec
from srpo_ray.rewards.preprocess import frame_for_each
from srpo_ray.rewards.query import Pairs, TextQuery
from srpo_ray.rewards.registry import build_rewards
from srpo_ray.rewards.statistics import ScoringStatistics

REPLICA = "in process"
ResultT = TypeVar("ResultT")


class LocalRewards:
    """Scorer with the same numbers and errors as the pool's client, without other processes.

    Args:
        rewards: All models by name, held-out ones included.
        weights: Factor of each training reward in the sum.
        micro_batch_size: Maximum number of images in one forward pass.
        official: Preprocess images in `measure` as the models' releases do; `submit` never does.

    Raises:
        ValueError: If there is a weight for an unknown model. Without any weight, `submit` raises it.
    """

    def __init__(
        self,
        rewards: Mapping[str, Reward],
        weights: Mapping[str, float],
        *,
        micro_batch_size: int = 16,
        official: bool = False,
    ) -> None:
        check_names(list(weights or rewards), list(rewards))
        self._rewards = dict(rewards)
        self._weights = dict(weights)
        self._micro_batch_size = micro_batch_size
        self._official = official
        self._statistics = ScoringStatistics()

    @classmethod
    def load(
        cls,
        models: Sequence[RewardModelConfig],
        held_out: Sequence[RewardModelConfig] = (),
        *,
        factors: Mapping[str, float] | None = None,
        micro_batch_size: int = 16,
        official: bool = False,
        device: str = "cpu",
    ) -> "LocalRewards":
        """Load the models of a config.

        Args:
            models: Training rewards.
            held_out: Held-out evaluators, which are not trained on.
            factors: Factors of the training rewards in the sum, `RewardsConfig.factors`; None takes their weights.
            micro_batch_size: Maximum number of images in one forward pass.
            official: As for the class.
            device: Device of the models.

        Raises:
            ValueError: As `build_rewards`.
        """
        weights = factors if factors is not None else {model.name: model.weight for model in models}
        rewards = build_rewards([*models, *held_out], device)
        return cls(rewards, weights, micro_batch_size=micro_batch_size, official=official)

    def submit(self, images: Tensor, queries: Sequence[TextQuery]) -> "PendingLocal[Scores]":
        """See `RewardScorer.submit`; `result()` computes the scores."""
        check_batch(images, queries)
        check_names(list(self._weights), list(self._rewards))
        pixels = self._frame(images, list(self._weights))
        if any(image.requires_grad for image in pixels.values()):
            check_gradient({name: self._rewards[name].image_gradient for name in self._weights})
            return PendingLocal(lambda: self._with_gradient(pixels, queries))
        return PendingLocal(lambda: self._without_gradient(pixels, queries))

    def request(self, images: Tensor, requests: Sequence[ScoreRequest]) -> list["PendingLocal[dict[str, Tensor]]"]:
        """See `RewardScorer.request`; `result()` computes the scores."""
        asked = check_requests(images, requests, self.models)
        used = [name for name in self.models if any(name in names for names in asked)]
        pixels = self._frame(images.detach(), used, official=self._official)
        return [
            PendingLocal(partial(self._measure, pixels, request.queries, names))
            for request, names in zip(requests, asked, strict=True)
        ]

    def measure(
        self, images: Tensor, queries: Sequence[TextQuery], names: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """See `RewardScorer.measure`."""
        return self.request(images, [ScoreRequest(queries, names)])[0].result()

    @property
    def models(self) -> tuple[str, ...]:
        """See `RewardScorer.models`."""
        return tuple(self._rewards)

    @property
    def pairwise(self) -> frozenset[str]:
        """See `RewardScorer.pairwise`."""
        return frozenset(name for name, reward in self._rewards.items() if is_pairwise(reward))

    @property
    def trained(self) -> tuple[str, ...]:
        """See `RewardScorer.trained`."""
        return tuple(self._weights)

    def compare(
        self, images: Tensor, queries: Sequence[TextQuery], pairs: Pairs, names: Sequence[str] | None = None
    ) -> "PendingLocal[dict[str, Tensor]]":
        """See `RewardScorer.compare`; `result()` computes the comparisons."""
        check_batch(images, queries)
        check_pairs(pairs, queries)
        asked = list(self._weights) if names is None else list(names)
        check_names(asked, list(self._rewards))
        pixels = self._frame(images.detach(), asked)
        return PendingLocal(lambda: self._compare(pixels, queries, pairs, asked))

    def take_statistics(self) -> dict[str, float]:
        """See `RewardScorer.take_statistics`."""
        return self._statistics.take()

    def _frame(self, images: Tensor, names: Sequence[str], *, official: bool = False) -> dict[InputSpec, Tensor]:
        return frame_for_each(images, [InputSpec.of(self._rewards[name]) for name in names], official=official)

    def _measure(
        self, pixels: dict[InputSpec, Tensor], queries: Sequence[TextQuery], names: Sequence[str]
    ) -> dict[str, Tensor]:
        started = time.perf_counter()
        values = score_only(
            self._rewards, names, pixels, queries, micro_batch_size=self._micro_batch_size, replica=REPLICA
        )
        self._count(time.perf_counter() - started)
        return values

    def _compare(
        self, pixels: dict[InputSpec, Tensor], queries: Sequence[TextQuery], pairs: Pairs, names: Sequence[str]
    ) -> dict[str, Tensor]:
        started = time.perf_counter()
        size = self._micro_batch_size
        wins = compare_pairs(self._rewards, names, pixels, queries, pairs, micro_batch_size=size, replica=REPLICA)
        self._count(time.perf_counter() - started)
        return wins

    def _without_gradient(self, pixels: dict[InputSpec, Tensor], queries: Sequence[TextQuery]) -> Scores:
        return connect_scores(self._measure(pixels, queries, list(self._weights)), self._weights, {}, pixels)

    def _with_gradient(self, pixels: dict[InputSpec, Tensor], queries: Sequence[TextQuery]) -> Scores:
        started = time.perf_counter()
        batch = score_and_gradient(
            self._rewards,
            self._weights,
            pixels,
            queries,
            micro_batch_size=self._micro_batch_size,
            replica=REPLICA,
        )
        self._count(time.perf_counter() - started)
        return connect_scores(batch.values, self._weights, batch.gradients, pixels)

    def _count(self, seconds: float) -> None:
        self._statistics.calls += 1
        self._statistics.wait_s += seconds
        self._statistics.round_trip_s += seconds
        self._statistics.compute_s += seconds


class PendingLocal(Generic[ResultT]):
    """Scores or comparisons that are computed on the first call of `result`."""

    def __init__(self, compute: Callable[[], ResultT]) -> None:
        self._compute = compute
        self._result: ResultT | None = None

    def result(self) -> ResultT:
        """See `PendingScore.result` and `PendingValues.result`."""
        if self._result is None:
            self._result = self._compute()
        return self._result
