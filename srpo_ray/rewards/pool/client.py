"""The trainer's side of the pool: resize, split, send, and hang the answers on the trainer's autograd graph."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import ray
import torch
from torch import Tensor

from srpo_ray.rewards.base import Scores, check_batch, check_gradient, check_names
from srpo_ray.rewards.framing import Framing
from srpo_ray.rewards.pool.bridge import connect_scores
from srpo_ray.rewards.pool.call import RemoteCall
from srpo_ray.rewards.pool.messages import NAMESPACE, PoolDescription, Reply
from srpo_ray.rewards.pool.wire import from_wire, to_wire
from srpo_ray.rewards.preprocess import frame_for_each
from srpo_ray.rewards.query import TextQuery
from srpo_ray.rewards.statistics import ScoringStatistics


class RewardClient:
    """A `RewardScorer` whose models live in a `RewardPool`; any number of processes may hold one."""

    def __init__(
        self, dispatcher: Any, pool: PoolDescription, weights: Mapping[str, float], *, official: bool = False
    ) -> None:
        check_names(list(weights), list(pool.models))
        self._dispatcher = dispatcher
        self._pool = pool
        self._weights = dict(weights)
        self._official = official
        self._statistics = ScoringStatistics()

    @classmethod
    def connect(cls, name: str, weights: Mapping[str, float], *, official: bool = False) -> "RewardClient":
        """Find a pool by name, from any process of the Ray cluster.

        Args:
            name: The name that `RewardPool.create` was given.
            weights: Factor of each training reward in the sum; may differ from client to client.
            official: `measure` prepares pictures as the models' releases do; `submit` never does.

        Raises:
            ValueError: If there is no such pool, it is still loading, or a weight is for an unknown model.
        """
        try:
            dispatcher = ray.get_actor(name, namespace=NAMESPACE)
        except ValueError as error:
            raise ValueError(
                f"expected a reward pool named {name!r} in this Ray cluster, received none; create it with "
                "RewardPool.create before the trainers start, and keep its driver alive"
            ) from error
        pool = cast(PoolDescription | None, ray.get(dispatcher.describe.remote()))
        if pool is None:
            raise ValueError(
                f"expected the reward pool {name!r} to be ready, received one that is still loading; connect after "
                "RewardPool.create has returned"
            )
        return cls(dispatcher, pool, weights, official=official)

    def submit(self, images: Tensor, queries: Sequence[TextQuery]) -> "PendingRemoteScore":
        """See `RewardScorer.submit`; returns when the calls are on their way."""
        check_batch(images, queries)
        pixels = self._frame(images, list(self._weights))
        dtype = self._pool.config.gradient_dtype
        if any(picture.requires_grad for picture in pixels.values()):
            check_gradient({name: self._pool.models[name].image_gradient for name in self._weights})
            calls = self._send(pixels, queries, self._weights, dtype)
        else:
            calls = self._send(pixels, queries, list(self._weights), dtype)
        return PendingRemoteScore(calls, pixels, self._weights, self._statistics)

    def measure(
        self, images: Tensor, queries: Sequence[TextQuery], names: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """See `RewardScorer.measure`."""
        check_batch(images, queries)
        asked = list(self._pool.models) if names is None else list(names)
        check_names(asked, list(self._pool.models))
        pixels = self._frame(images.detach(), asked, official=self._official)
        # bfloat16 would round the 8-bit steps of an official picture once more.
        dtype = "float32" if self._official else self._pool.config.gradient_dtype
        replies = _collect(self._send(pixels, queries, asked, dtype), self._statistics)
        return _join_values(replies, images.device)

    def take_statistics(self) -> dict[str, float]:
        """See `RewardScorer.take_statistics`."""
        return self._statistics.take()

    def _frame(self, images: Tensor, names: Sequence[str], *, official: bool = False) -> dict[Framing, Tensor]:
        return frame_for_each(images, [Framing.of(self._pool.models[name]) for name in names], official=official)

    def _send(
        self,
        pixels: Mapping[Framing, Tensor],
        queries: Sequence[TextQuery],
        models: Mapping[str, float] | Sequence[str],
        dtype: str,
    ) -> list[RemoteCall]:
        config = self._pool.config
        arrays = {framing: to_wire(picture, dtype) for framing, picture in pixels.items()}
        calls = []
        for start in range(0, len(queries), config.micro_batch_size):
            rows = slice(start, start + config.micro_batch_size)
            part = {framing: array[rows] for framing, array in arrays.items()}
            call = RemoteCall(self._dispatcher, config, self._statistics, part, queries[rows], models)
            # With no replica in service the call waits here and is sent when its answer is asked for.
            call.send()
            calls.append(call)
        return calls


class PendingRemoteScore:
    """Calls on their way, and the graph that their answers belong to."""

    def __init__(
        self,
        calls: Sequence[RemoteCall],
        pixels: Mapping[Framing, Tensor],
        weights: Mapping[str, float],
        statistics: ScoringStatistics,
    ) -> None:
        self._calls = calls
        self._pixels = pixels
        self._weights = weights
        self._statistics = statistics
        self._scores: Scores | None = None

    def result(self) -> Scores:
        """See `PendingScore.result`."""
        if self._scores is None:
            replies = _collect(self._calls, self._statistics)
            device = next(iter(self._pixels.values())).device
            gradients = {
                framing: torch.cat([from_wire(reply.gradients[framing]) for reply in replies]).to(device)
                for framing in replies[0].gradients
            }
            values = _join_values(replies, device)
            self._scores = connect_scores(values, self._weights, gradients, self._pixels)
        return self._scores


def _collect(calls: Sequence[RemoteCall], statistics: ScoringStatistics) -> list[Reply]:
    started = time.perf_counter()
    replies = [call.collect() for call in calls]
    statistics.wait_s += time.perf_counter() - started
    return replies


def _join_values(replies: Sequence[Reply], device: torch.device) -> dict[str, Tensor]:
    return {
        name: torch.cat([from_wire(reply.values[name]) for reply in replies]).to(device) for name in replies[0].values
    }
