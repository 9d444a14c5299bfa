"""The Ray actor that holds reward models: a batch of images comes in, scores and gradients go out."""

import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ray

from srpo_ray.config.rewards import PoolConfig, RewardModelConfig
from srpo_ray.errors import RunFailedError
from srpo_ray.rewards.input_spec import InputSpec
from srpo_ray.rewards.pool.messages import NAMESPACE, ReplicaDescription, ReplicaHealth, Reply
from srpo_ray.rewards.query import TextQuery

if TYPE_CHECKING:
    from srpo_ray.rewards.pool.scoring import LoadedRewards

HEALTH_GROUP = "health"


class RewardReplica:
    """Reward models in one process; only cached text features outlive a call, so any call can be replayed.

    A plain class; `RayReplicas` makes an actor of it. Calls run one at a time, pings beside them in their own thread.

    Args:
        name: Name for messages, for example `rewards/0`.
        models: Its models, training and held-out.
        pool: Section `pool` of the config.
        router: Name of the actor that is told when a call has ended.
    """

    def __init__(self, name: str, models: Sequence[RewardModelConfig], pool: PoolConfig, router: str) -> None:
        # Imported here, since the router knows this class too and does without torch.
        from srpo_ray.rewards.pool.scoring import LoadedRewards

        # By name: a handle among its arguments would tie a restart of this actor to the life of the handle.
        self._router = ray.get_actor(router, namespace=NAMESPACE)
        self._start_id = uuid.uuid4().hex
        self._node_id = ray.get_runtime_context().get_node_id()
        # One value, since a ping in another thread must not read the half of it.
        self._state: tuple[int | None, float] = (None, time.monotonic())
        self._rewards: LoadedRewards | ValueError | RunFailedError
        try:
            self._rewards = LoadedRewards(models, pool, name)
        except (ValueError, RunFailedError) as error:
            # Kept and raised by every call: an exception of a constructor reaches other processes as text only.
            self._rewards = error

    def describe(self) -> ReplicaDescription:
        """What was loaded, and where.

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
        """Values of the weighted rewards and the gradient of their sum.

        Args:
            request_id: Number under which the router counts this call.
            queries: B text queries.
            weights: Factor of each reward.
            input_specs: Of the images.
            *arrays: Per input_spec `[B, 3, size, size]` in wire form. As arguments of their own, so that Ray
                brings them here before it starts the call.

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
        """Values of the named rewards; arguments and errors as `score`."""
        with self._at_work(request_id):
            return self._loaded().measure(dict(zip(input_specs, arrays, strict=True)), queries, names)

    @ray.method(concurrency_group=HEALTH_GROUP)
    def ping(self) -> ReplicaHealth:
        """Answers while a model computes, so that a long call can be told from a dead process."""
        request_id, since = self._state
        return ReplicaHealth(self._start_id, self._node_id, os.getpid(), request_id, time.monotonic() - since)

    @contextmanager
    def _at_work(self, request_id: int) -> Iterator[None]:
        self._state = (request_id, time.monotonic())
        try:
            yield
        finally:
            self._state = (None, time.monotonic())
            # From here and not from the client, which may collect the answer much later.
            self._router.release.remote(request_id)

    def _loaded(self) -> "LoadedRewards":
        if isinstance(self._rewards, Exception):
            raise self._rewards
        return self._rewards
