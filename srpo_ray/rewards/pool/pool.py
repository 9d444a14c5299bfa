"""The driver's side of the pool: start the replicas, wait until they have loaded, stop them."""

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, cast

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from srpo_ray.config.reward import PoolConfig, RewardModelConfig
from srpo_ray.rewards.base import RewardError
from srpo_ray.rewards.pool.capacity import replica_resources, require_capacity
from srpo_ray.rewards.pool.dispatcher import RewardDispatcher
from srpo_ray.rewards.pool.messages import NAMESPACE, ReplicaDescription
from srpo_ray.rewards.pool.replica import HEALTH_GROUP, RewardReplica

logger = logging.getLogger(__name__)

REPORT_INTERVAL_S = 30.0


class RewardPool:
    """Replicas of the reward models and the dispatcher before them; lives as long as the process that made it.

    with RewardPool.create(config.rewards.models, held_out, config.rewards.pool, "rewards") as pool:
        ...  # trainers anywhere in the cluster: RewardClient.connect("rewards", weights)
    """

    def __init__(self, name: str, dispatcher: Any, replicas: Sequence[Any]) -> None:
        self.name = name
        self._actors = [*replicas, dispatcher]

    @classmethod
    def create(
        cls,
        models: Sequence[RewardModelConfig],
        held_out: Sequence[RewardModelConfig],
        pool: PoolConfig,
        name: str,
    ) -> "RewardPool":
        """Start a pool and wait until every replica has loaded every model.

        Args:
            models: Training rewards.
            held_out: Models that are only measured; they live in the same replicas.
            pool: Size and settings.
            name: Name by which clients find the pool.

        Raises:
            ValueError: If the pool cannot fit into the cluster, the name is taken, or a model cannot be loaded.
            RewardError: If a reward's constructor raises, or a replica dies while it loads.
        """
        require_capacity(pool)
        all_models = (*models, *held_out)
        with ExitStack() as on_failure:
            dispatcher = _start_dispatcher(name, pool)
            on_failure.callback(ray.kill, dispatcher)
            replicas = {}
            for index in range(pool.num_replicas):
                replica = f"{name}/{index}"
                replicas[replica] = _start_replica(replica, all_models, pool, name)
                on_failure.callback(ray.kill, replicas[replica])
            loaded = _wait_until_loaded(replicas, [model.name for model in all_models], pool)
            entries = [(replica, handle, loaded[replica].start_id) for replica, handle in replicas.items()]
            ray.get(dispatcher.open.remote(entries, next(iter(loaded.values())).models))
            on_failure.pop_all()
        return cls(name, dispatcher, list(replicas.values()))

    def shutdown(self) -> None:
        """Stop all actors; calls still on their way fail with a RewardError at their client."""
        while self._actors:
            ray.kill(self._actors.pop())

    def __enter__(self) -> "RewardPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()


def _start_dispatcher(name: str, pool: PoolConfig) -> Any:
    # Beside its driver, since a dispatcher on a spot node would take the whole pool down with it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"name": name, "namespace": NAMESPACE, "num_cpus": 0, "scheduling_strategy": here}
    return ray.remote(RewardDispatcher).options(**options).remote(pool)


def _start_replica(name: str, models: Sequence[RewardModelConfig], pool: PoolConfig, dispatcher: str) -> Any:
    options: dict[str, Any] = {
        "num_cpus": pool.num_cpus,
        "num_gpus": pool.num_gpus,
        "resources": pool.resources,
        "scheduling_strategy": "SPREAD",
        "max_restarts": -1,
        # The client replays a lost call itself, so that its attempts are counted.
        "max_task_retries": 0,
        "concurrency_groups": {HEALTH_GROUP: 1},
    }
    return cast(Any, ray.remote)(**options)(RewardReplica).remote(name, models, pool, dispatcher)


def _wait_until_loaded(
    replicas: dict[str, Any], model_names: Sequence[str], pool: PoolConfig
) -> dict[str, ReplicaDescription]:
    """The description of every replica; the first failure is raised at once."""
    waiting = {handle.describe.remote(): name for name, handle in replicas.items()}
    loaded: dict[str, ReplicaDescription] = {}
    started = time.monotonic()
    while waiting:
        ready, _ = ray.wait(list(waiting), timeout=REPORT_INTERVAL_S)
        if not ready:
            logger.warning(
                "%d of %d reward replicas have not loaded after %.0f s; each needs %s, free now: %s",
                len(waiting),
                len(replicas),
                time.monotonic() - started,
                replica_resources(pool),
                ray.available_resources(),
            )
        for answer in ready:
            name = waiting.pop(answer)
            try:
                loaded[name] = ray.get(answer)
            except RayTaskError as error:
                raise error.cause from error
            except RayActorError as error:
                raise RewardError(", ".join(model_names), (), name, f"died while loading: {error}") from error
    return loaded
