"""The Ray actor that holds the reward models: a batch of pictures comes in, scores and gradients go out."""

import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import ray
import torch

from srpo_ray.config.reward import PoolConfig, RewardModelConfig
from srpo_ray.rewards.base import Reward, RewardError
from srpo_ray.rewards.build import build_rewards
from srpo_ray.rewards.combine import score_and_gradient, score_only
from srpo_ray.rewards.framing import Framing
from srpo_ray.rewards.pool.messages import (
    NAMESPACE,
    ModelInfo,
    Pixels,
    ReplicaDescription,
    ReplicaHealth,
    Reply,
)
from srpo_ray.rewards.pool.wire import from_wire, to_wire
from srpo_ray.rewards.query import TextQuery

HEALTH_GROUP = "health"


class RewardReplica:
    """All reward models in one process; only cached text features outlive a call, so any call can be replayed.

    A plain class; the pool makes an actor of it. Calls run one at a time, pings beside them in their own thread.

    Args:
        name: Name for messages, for example `rewards/0`.
        models: All models, training and held-out.
        pool: Section `pool` of the config.
        dispatcher: Name of the actor that is told when a call has ended.
    """

    def __init__(self, name: str, models: Sequence[RewardModelConfig], pool: PoolConfig, dispatcher: str) -> None:
        torch.set_num_threads(pool.num_threads)
        self._name = name
        self._pool = pool
        # By name: a handle among its arguments would tie a restart of this actor to the life of the handle.
        self._dispatcher = ray.get_actor(dispatcher, namespace=NAMESPACE)
        self._start_id = uuid.uuid4().hex
        self._call_started: float | None = None
        self._rewards: dict[str, Reward] = {}
        self._load_error: ValueError | RewardError | None = None
        try:
            self._rewards = build_rewards(models, _device(pool))
        except (ValueError, RewardError) as error:
            # Kept and raised by every call: an exception of a constructor reaches other processes as text only.
            self._load_error = error

    def describe(self) -> ReplicaDescription:
        """What was loaded.

        Raises:
            ValueError, RewardError: If a model could not be loaded.
        """
        self._require_loaded()
        models = {
            name: ModelInfo(r.image_size, r.image_gradient, Framing.of(r).fit) for name, r in self._rewards.items()
        }
        return ReplicaDescription(self._start_id, models)

    def score(self, ticket: int, pixels: Pixels, queries: Sequence[TextQuery], weights: Mapping[str, float]) -> Reply:
        """Values of the weighted rewards and the gradient of their sum.

        Args:
            ticket: Number under which the dispatcher counts this call.
            pixels: Per framing `[B, 3, size, size]` in [0, 1], in wire form.
            queries: B text queries.
            weights: Factor of each reward.

        Raises:
            RewardError: If a reward fails or is not finite.
            ValueError: If a model could not be loaded again after a restart.
        """
        with self._at_work(ticket):
            started = time.perf_counter()
            batch = score_and_gradient(
                self._rewards,
                weights,
                {framing: from_wire(array) for framing, array in pixels.items()},
                queries,
                micro_batch_size=self._pool.micro_batch_size,
                replica=self._name,
            )
            seconds = time.perf_counter() - started
            gradient_dtype = self._pool.gradient_dtype
            return Reply(
                {name: to_wire(value, "float32") for name, value in batch.values.items()},
                {framing: to_wire(value, gradient_dtype) for framing, value in batch.gradients.items()},
                seconds,
            )

    def measure(self, ticket: int, pixels: Pixels, queries: Sequence[TextQuery], names: Sequence[str]) -> Reply:
        """Values of the named rewards; arguments and errors as `score`."""
        with self._at_work(ticket):
            started = time.perf_counter()
            values = score_only(
                self._rewards,
                names,
                {framing: from_wire(array) for framing, array in pixels.items()},
                queries,
                micro_batch_size=self._pool.micro_batch_size,
                replica=self._name,
            )
            seconds = time.perf_counter() - started
            return Reply({name: to_wire(value, "float32") for name, value in values.items()}, {}, seconds)

    @ray.method(concurrency_group=HEALTH_GROUP)
    def ping(self) -> ReplicaHealth:
        """Answers while a model computes, so that a long call can be told from a dead process."""
        started = self._call_started
        busy_s = 0.0 if started is None else time.monotonic() - started
        return ReplicaHealth(self._start_id, os.getpid(), busy_s)

    @contextmanager
    def _at_work(self, ticket: int) -> Iterator[None]:
        self._call_started = time.monotonic()
        try:
            self._require_loaded()
            yield
        finally:
            self._call_started = None
            # From here and not from the client, which may collect the answer much later.
            self._dispatcher.release.remote(ticket)

    def _require_loaded(self) -> None:
        if self._load_error is not None:
            raise self._load_error


def _device(pool: PoolConfig) -> str:
    if pool.num_gpus == 0:
        return "cpu"
    if not torch.cuda.is_available():
        raise ValueError(
            f"expected a CUDA device for `rewards.pool.num_gpus: {pool.num_gpus:g}`, received a node where torch "
            "finds none; set num_gpus to 0 or install a CUDA build of torch"
        )
    return "cuda"
