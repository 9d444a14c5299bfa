"""Client of the pool: resize, split and send images, and connect the scores to the trainer's autograd graph."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import ray
import torch
from torch import Tensor

from srpo_ray.rewards.autograd import connect_scores
from srpo_ray.rewards.base import Scores, check_batch, check_gradient, check_names, check_pairs
from srpo_ray.rewards.input_spec import InputSpec
from srpo_ray.rewards.pool.messages import NAMESPACE, PoolDescription, Reply
from srpo_ray.rewards.pool.request import RemoteCall, StoredPixels
from srpo_ray.rewards.pool.wire import from_wire, to_wire
from srpo_ray.rewards.preprocess import frame_for_each
from srpo_ray.rewards.query import Pairs, TextQuery
from srpo_ray.rewards.statistics import ScoringStatistics


class RewardClient:
    """`RewardScorer` whose models run in a `RewardPool`; any number of processes may have a client of the same pool."""

    def __init__(
        self, router: Any, pool: PoolDescription, weights: Mapping[str, float], *, official: bool = False
    ) -> None:
        check_names(list(weights or pool.models), list(pool.models))
        self._router = router
        self._pool = pool
        self._weights = dict(weights)
        self._official = official
        self._statistics = ScoringStatistics()

    @classmethod
    def connect(cls, name: str, weights: Mapping[str, float], *, official: bool = False) -> "RewardClient":
        """Find a pool by name, from any process of the Ray cluster.

        Args:
            name: Name of the pool, as passed to `RewardPool.create`.
            weights: Factor of each training reward in the sum; may differ between clients.
            official: Preprocess images in `measure` as the models' releases do; `submit` never does.

        Raises:
            ValueError: If there is no such pool, it is still loading, or a weight is for an unknown model.
        """
        try:
            router = ray.get_actor(name, namespace=NAMESPACE)
        except ValueError as error:
            raise ValueError(
                f"expected a reward pool named {name!r} in this Ray cluster, received none; create it with "
                "RewardPool.create before the trainers start, and keep its driver alive"
            ) from error
        pool = cast(PoolDescription | None, ray.get(router.describe.remote()))
        if pool is None:
            raise ValueError(
                f"expected the reward pool {name!r} to be ready, received one that is still loading; connect after "
                "RewardPool.create has returned"
            )
        return cls(router, pool, weights, official=official)

    def submit(self, images: Tensor, queries: Sequence[TextQuery]) -> "PendingRemoteScore":
        """See `RewardScorer.submit`; returns when every call has a request slot and has been sent."""
        check_batch(images, queries)
        check_names(list(self._weights), list(self._pool.models))
        pixels = self._frame(images, list(self._weights))
        dtype = self._pool.config.wire_dtype
        if any(image.requires_grad for image in pixels.values()):
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
        # bfloat16 would round the 8-bit values of an official image once more.
        dtype = "float32" if self._official else self._pool.config.wire_dtype
        replies = _collect(self._send(pixels, queries, asked, dtype), self._statistics)
        return _join_values(replies, asked, images.device)

    @property
    def pairwise(self) -> frozenset[str]:
        """See `RewardScorer.pairwise`."""
        return frozenset(name for name, model in self._pool.models.items() if model.pairwise)

    @property
    def trained(self) -> tuple[str, ...]:
        """See `RewardScorer.trained`."""
        return tuple(self._weights)

    def compare(
        self, images: Tensor, queries: Sequence[TextQuery], pairs: Pairs, names: Sequence[str] | None = None
    ) -> "PendingRemoteComparison":
        """See `RewardScorer.compare`; a call has at most `micro_batch_size` pairs, and all calls share the images."""
        check_batch(images, queries)
        check_pairs(pairs, queries)
        asked = list(self._weights) if names is None else list(names)
        check_names(asked, list(self._pool.models))
        started = time.perf_counter()
        pixels = self._frame(images.detach(), asked)
        arrays = {spec: to_wire(image, self._pool.config.wire_dtype) for spec, image in pixels.items()}
        stored, size = StoredPixels(arrays, self._statistics), self._pool.config.micro_batch_size
        parts = [pairs[start : start + size] for start in range(0, len(pairs), size)]
        calls = [self._send_part(stored, queries, asked, part) for part in parts]
        self._statistics.wait_s += time.perf_counter() - started
        return PendingRemoteComparison(calls, asked, images.device, self._statistics)

    def take_statistics(self) -> dict[str, float]:
        """See `RewardScorer.take_statistics`."""
        return self._statistics.take()

    def _frame(self, images: Tensor, names: Sequence[str], *, official: bool = False) -> dict[InputSpec, Tensor]:
        return frame_for_each(images, [InputSpec.of(self._pool.models[name]) for name in names], official=official)

    def _send(
        self,
        pixels: Mapping[InputSpec, Tensor],
        queries: Sequence[TextQuery],
        models: Mapping[str, float] | Sequence[str],
        dtype: str,
    ) -> list[list[RemoteCall]]:
        """Send the calls of a batch; return one list per micro-batch, with one call per group of replicas."""
        started = time.perf_counter()
        size = self._pool.config.micro_batch_size
        arrays = {input_spec: to_wire(image, dtype) for input_spec, image in pixels.items()}
        calls: list[list[RemoteCall]] = []
        for start in range(0, len(queries), size):
            rows = slice(start, start + size)
            part = StoredPixels({input_spec: array[rows] for input_spec, array in arrays.items()}, self._statistics)
            calls.append(self._send_part(part, queries[rows], models))
        self._statistics.wait_s += time.perf_counter() - started
        return calls

    def _send_part(
        self,
        part: StoredPixels,
        queries: Sequence[TextQuery],
        models: Mapping[str, float] | Sequence[str],
        pairs: Pairs = (),
    ) -> list[RemoteCall]:
        """Send one call per group of replicas."""
        calls: list[RemoteCall] = []
        for group, asked in self._by_group(models).items():
            specs = sorted({InputSpec.of(self._pool.models[name]) for name in asked})
            call = RemoteCall(
                self._router, self._pool.config, self._statistics, group, part, specs, queries, asked, pairs
            )
            # One slot is requested and used at a time: no client keeps an unused one while it waits for another.
            call.send()
            calls.append(call)
        return calls

    def _by_group(self, models: Mapping[str, float] | Sequence[str]) -> dict[str, dict[str, float] | list[str]]:
        """Group name -> those of the requested models that its replicas load; groups without one are left out."""
        held = {group: [name for name in models if name in names] for group, names in self._pool.groups.items()}
        return {
            group: {name: models[name] for name in asked} if isinstance(models, Mapping) else asked
            for group, asked in held.items()
            if asked
        }


class PendingRemoteScore:
    """Calls in flight, and the pixels that connect their answers to the autograd graph."""

    def __init__(
        self,
        calls: Sequence[Sequence[RemoteCall]],
        pixels: Mapping[InputSpec, Tensor],
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
            gradients = _join_gradients(replies, device)
            values = _join_values(replies, list(self._weights), device)
            self._scores = connect_scores(values, self._weights, gradients, self._pixels)
        return self._scores


class PendingRemoteComparison:
    """Calls in flight that compare pairs of images."""

    def __init__(
        self,
        calls: Sequence[Sequence[RemoteCall]],
        names: Sequence[str],
        device: torch.device,
        statistics: ScoringStatistics,
    ) -> None:
        self._calls = calls
        self._names = names
        self._device = device
        self._statistics = statistics
        self._wins: dict[str, Tensor] | None = None

    def result(self) -> dict[str, Tensor]:
        """See `PendingComparison.result`."""
        if self._wins is None:
            self._wins = _join_values(_collect(self._calls, self._statistics), self._names, self._device)
        return self._wins


def _collect(calls: Sequence[Sequence[RemoteCall]], statistics: ScoringStatistics) -> list[list[Reply]]:
    started = time.perf_counter()
    replies = [[call.collect() for call in part] for part in calls]
    statistics.wait_s += time.perf_counter() - started
    return replies


def _join_values(replies: Sequence[Sequence[Reply]], names: Sequence[str], device: torch.device) -> dict[str, Tensor]:
    parts = [{name: value for reply in part for name, value in reply.values.items()} for part in replies]
    return {name: _join([from_wire(part[name]) for part in parts]).to(device) for name in names}


def _join_gradients(replies: Sequence[Sequence[Reply]], device: torch.device) -> dict[InputSpec, Tensor]:
    """Gradient of the weighted sum per input spec, summed over the replicas of a micro-batch."""
    input_specs = sorted({input_spec for reply in replies[0] for input_spec in reply.gradients})
    return {input_spec: _join([_add(part, input_spec) for part in replies]).to(device) for input_spec in input_specs}


def _add(part: Sequence[Reply], input_spec: InputSpec) -> Tensor:
    first, *others = [from_wire(reply.gradients[input_spec]) for reply in part if input_spec in reply.gradients]
    for other in others:
        first += other
    return first


def _join(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]
