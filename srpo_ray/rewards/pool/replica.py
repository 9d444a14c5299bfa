"""Ray actor that runs reward models: it takes a batch of images and returns scores and gradients."""

import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ray

from srpo_ray.config.rewards import PoolConfig, RewardModelConfig
from srpo_ray.errors import RunFailedError
from srpo_ray.imports import large_imports
from srpo_ray.rewards.input_spec import InputSpec
from srpo_ray.rewards.pool.messages import NAMESPACE, ReplicaDescription, ReplicaHealth, Reply
from srpo_ray.rewards.query import Pairs, TextQuery

if TYPE_CHECKING:
    from srpo_ray.rewards.pool.scoring import LoadedRewards

HEALTH_GROUP = "health"


class RewardReplica:
    """Reward models in one process. Calls are idempotent: only cached text features outlive one, so it can be replayed.

    A plain class; `RayReplicas` makes an actor of it. Calls run one at a time; pings run concurrently in a thread.

    Args:
        name: Name for messages, for example `rewards/0`.
        models: Models to load, training and held-out.
        pool: Section `pool` of the config.
        router: Name of the router's actor, which counts the placed replicas and releases the slots of ended calls.
    """

    def __init__(self, name: str, models: Sequence[RewardModelConfig], pool: PoolConfig, router: str) -> None:
        # By name: with a handle among its arguments, this actor could be restarted only while the handle exists.
        self._router = ray.get_actor(router, namespace=NAMESPACE)
        # Before the imports and models, so that trials can start beside them, on what the replicas leave.
        self._router.report_placed.remote(name)
        # Imported here, since the router imports this module and must not import torch.
        with large_imports():
            from srpo_ray.rewards.pool.scoring import LoadedRewards

        self._start_id = uuid.uuid4().hex
        self._node_id = ray.get_runtime_context().get_node_id()
        # One tuple, so that a ping in another thread reads both values of the same moment.
        self._state: tuple[int | None, float] = (None, time.monotonic())
        self._rewards: LoadedRewards | ValueError | RunFailedError
        try:
            self._rewards = LoadedRewards(models, pool, name)
        except (ValueError, RunFailedError) as error:
            # Stored and raised by every call, since Ray passes an exception of a constructor on as text only.
            self._rewards = error

    def describe(self) -> ReplicaDescription:
        """Return the loaded models and the node.

        Raises:
            ValueError, RewardError: If a model could not be loaded.
        """
        return ReplicaDescription(self._start_id, self._node_id, self._loaded().describe())

    def score(
        self,
        request_id: int,
        queries: Sequence[TextQuery],
        weights: Mapping[str, float],
        input_specs: Sequence[InputSpec],
        *arrays: Any,
    ) -> Reply:
        """Compute the weighted rewards and the gradient of their sum.

        Args:
            request_id: Id that the router assigned to this call.
            queries: B text queries.
            weights: Factor of each reward.
            input_specs: Input specs of the images, in the order of `arrays`.
            *arrays: Per input spec `[B, 3, size, size]` in wire form. Separate arguments, so that Ray fetches them
                before it starts the call.

        Raises:
            RewardError: If a reward fails or is not finite.
            ValueError: If a model could not be loaded again after a restart.
        """
        with self._at_work(request_id):
            return self._loaded().score(dict(zip(input_specs, arrays, strict=True)), queries, weights)

    def measure(
        self,
        request_id: int,
        queries: Sequence[TextQuery],
        names: Sequence[str],
        input_specs: Sequence[InputSpec],
        *arrays: Any,
    ) -> Reply:
        """Compute the named rewards; arguments and errors as for `score`."""
        with self._at_work(request_id):
            return self._loaded().measure(dict(zip(input_specs, arrays, strict=True)), queries, names)

    def compare(
        self,
        request_id: int,
        queries: Sequence[TextQuery],
        names: Sequence[str],
        pairs: Pairs,
        input_specs: Sequence[InputSpec],
        *arrays: Any,
    ) -> Reply:
        """Compare pairs of images, given as indices of the batch; other arguments and errors as for `score`."""
        with self._at_work(request_id):
            return self._loaded().compare(dict(zip(input_specs, arrays, strict=True)), queries, names, pairs)

    @ray.method(concurrency_group=HEALTH_GROUP)
    def ping(self) -> ReplicaHealth:
        """Report the current call; answered while a model computes, so that a slow replica does not look dead."""
        request_id, since = self._state
        return ReplicaHealth(self._start_id, self._node_id, os.getpid(), request_id, time.monotonic() - since)

    @contextmanager
    def _at_work(self, request_id: int) -> Iterator[None]:
        self._state = (request_id, time.monotonic())
        try:
            yield
        finally:
            self._state = (None, time.monotonic())
            # Released here and not by the client, which may collect the answer much later.
            self._router.release.remote(request_id)

    def _loaded(self) -> "LoadedRewards":
        if isinstance(self._rewards, Exception):
            raise self._rewards
        return self._rewards
