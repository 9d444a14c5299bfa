"""Ray actors of the pool: options of their start, restart and stop."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import ray
from ray._private.state import state as cluster_state
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from srpo_ray.config.rewards import PoolConfig, RewardModelConfig
from srpo_ray.rewards.pool.messages import NAMESPACE
from srpo_ray.rewards.pool.replica import HEALTH_GROUP, RewardReplica
from srpo_ray.rewards.pool.router import RewardRouter

ROUTER_CALLS = 100_000
"""Maximum number of concurrent calls of the router, queued ones included; at the limit, slots could not be released."""


def model_groups(
    name: str, models: Sequence[RewardModelConfig], pool: PoolConfig
) -> dict[str, tuple[RewardModelConfig, ...]]:
    """Assign the models of a pool to groups of replicas: all to one group, or one to each.

    Args:
        name: Name of the pool and prefix of its groups' names.
        models: All models, training and held-out.
        pool: Section `pool` of the config.
    """
    if pool.one_model_each:
        return {f"{name}/{model.name}": (model,) for model in models}
    return {name: tuple(models)}


@dataclass(frozen=True)
class RayReplicas:
    """Starts replicas as child actors of the calling process, which is the router."""

    groups: Mapping[str, Sequence[RewardModelConfig]]
    pool: PoolConfig
    router: str
    """Name of the router's actor."""

    def start(self, group: str, name: str) -> Any:
        """Request one more replica from Ray; it may wait for a node, and the autoscaler sees that demand."""
        options: dict[str, Any] = {
            "num_cpus": self.pool.num_cpus,
            "num_gpus": self.pool.num_gpus,
            "resources": self.pool.resources,
            "label_selector": dict(self.pool.labels) or None,
            "scheduling_strategy": "SPREAD",
            "max_restarts": -1,
            # The client replays a lost call itself, so that it can count the attempts.
            "max_task_retries": 0,
            "concurrency_groups": {HEALTH_GROUP: 1},
        }
        actor = cast(Any, ray.remote)(**options)(RewardReplica)
        return actor.remote(name, self.groups[group], self.pool, self.router)

    def stop(self, handle: Any) -> None:
        """Stop a replica permanently."""
        ray.kill(handle)

    def restart(self, handle: Any) -> None:
        """Kill a hung replica; Ray restarts it."""
        ray.kill(handle, no_restart=False)

    def draining_nodes(self) -> Iterable[str]:
        """Hexadecimal ids of the nodes that drain; a query to Ray's control store of about 1 ms."""
        # No public API works without the dashboard; Ray Train and Ray Data use this one.
        return cluster_state.get_draining_nodes()


def start_router(name: str, groups: Mapping[str, Sequence[RewardModelConfig]], pool: PoolConfig) -> Any:
    """Start the router of a pool under its name.

    Raises:
        ValueError: If the name is taken.
    """
    # On the driver's node, since the loss of a spot node with the router would end the whole pool.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {
        "name": name,
        "namespace": NAMESPACE,
        "num_cpus": 0,
        "scheduling_strategy": here,
        "max_concurrency": ROUTER_CALLS,
    }
    names = {group: tuple(model.name for model in models) for group, models in groups.items()}
    return ray.remote(RewardRouter).options(**options).remote(pool, names, RayReplicas(groups, pool, name))
