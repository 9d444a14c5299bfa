"""Client of the pool: resize, split and send images."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import ray
from torch import Tensor

from srpo_ray.rewards.base import ScoreRequest
from srpo_ray.rewards.checks import check_batch, check_gradient, check_names, check_pairs, check_requests
from srpo_ray.rewards.input_spec import InputSpec
from srpo_ray.rewards.pool.messages import NAMESPACE, PoolDescription
from srpo_ray.rewards.pool.pending import PendingRemoteScore, PendingRemoteValues
from srpo_ray.rewards.pool.request import RemoteCall, StoredPixels
from srpo_ray.rewards.pool.wire import to_wire
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

    def submit(self, images: Tensor, queries: Sequence[TextQuery]) -> PendingRemoteScore:
        """See `RewardScorer.submit`; returns when every call has a request slot and has been sent."""
        check_batch(images, queries)
        check_names(list(self._weights), list(self._pool.models))
        pixels = self._frame(images, list(self._weights))
        dtype = self._pool.config.wire_dtype
        if any(image.requires_grad for image in pixels.values()):
            check_gradient({name: self._pool.models[name].image_gradient for name in self._weights})
            calls = self._send(self._parts(pixels, dtype), queries, self._weights)
        else:
            calls = self._send(self._parts(pixels, dtype), queries, list(self._weights))
        return PendingRemoteScore(calls, pixels, self._weights, self._statistics)

    def request(self, images: Tensor, requests: Sequence[ScoreRequest]) -> list[PendingRemoteValues]:
        """See `RewardScorer.request`; returns when every call has a request slot and has been sent."""
        asked = check_requests(images, requests, self.models)
        used = [name for name in self.models if any(name in names for names in asked)]
        pixels = self._frame(images.detach(), used, official=self._official)
        # bfloat16 would round the 8-bit values of an official image once more.
        parts = self._parts(pixels, "float32" if self._official else self._pool.config.wire_dtype)
        calls = self._send_each(
            parts, [(request.queries, names) for request, names in zip(requests, asked, strict=True)]
        )
        return [
            PendingRemoteValues(sent, names, images.device, self._statistics)
            for sent, names in zip(calls, asked, strict=True)
        ]

    def measure(
        self, images: Tensor, queries: Sequence[TextQuery], names: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """See `RewardScorer.measure`."""
        return self.request(images, [ScoreRequest(queries, names)])[0].result()

    @property
    def models(self) -> tuple[str, ...]:
        """See `RewardScorer.models`."""
        return tuple(self._pool.models)

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
    ) -> PendingRemoteValues:
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
        return PendingRemoteValues(calls, asked, images.device, self._statistics)

    def take_statistics(self) -> dict[str, float]:
        """See `RewardScorer.take_statistics`."""
        return self._statistics.take()

    def _frame(self, images: Tensor, names: Sequence[str], *, official: bool = False) -> dict[InputSpec, Tensor]:
        return frame_for_each(images, [InputSpec.of(self._pool.models[name]) for name in names], official=official)

    def _parts(self, pixels: Mapping[InputSpec, Tensor], dtype: str) -> list[StoredPixels]:
        """Divide a batch into micro-batches."""
        started = time.perf_counter()
        size = self._pool.config.micro_batch_size
        arrays = {input_spec: to_wire(image, dtype) for input_spec, image in pixels.items()}
        images = len(next(iter(arrays.values())))
        parts = [
            StoredPixels({spec: array[start : start + size] for spec, array in arrays.items()}, self._statistics)
            for start in range(0, images, size)
        ]
        self._statistics.wait_s += time.perf_counter() - started
        return parts

    def _send(
        self, parts: Sequence[StoredPixels], queries: Sequence[TextQuery], models: Mapping[str, float] | Sequence[str]
    ) -> list[list[RemoteCall]]:
        """Send the calls of a batch; return one list per micro-batch, with one call per group of replicas."""
        return self._send_each(parts, [(queries, models)])[0]

    def _send_each(
        self,
        parts: Sequence[StoredPixels],
        requests: Sequence[tuple[Sequence[TextQuery], Mapping[str, float] | Sequence[str]]],
    ) -> list[list[list[RemoteCall]]]:
        """Send the calls of several requests for a batch; return those of each request as `_send` does."""
        started = time.perf_counter()
        size = self._pool.config.micro_batch_size
        calls: list[list[list[RemoteCall]]] = [[] for _ in requests]
        # All calls with the same images follow each other, so that a replica still has the images' features.
        for index, part in enumerate(parts):
            rows = slice(index * size, (index + 1) * size)
            for sent, (queries, models) in zip(calls, requests, strict=True):
                sent.append(self._send_part(part, queries[rows], models))
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
