"""The Ray actors of the pool: with what options they are started, and how they are stopped."""

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
"""Calls that may wait for a place at once; at the limit the router would not hear that places are given back."""


def model_groups(
    name: str, models: Sequence[RewardModelConfig], pool: PoolConfig
) -> dict[str, tuple[RewardModelConfig, ...]]:
    """Which models the replicas of a pool hold together: all, or one each.

    Args:
        name: Name of the pool, which the names of its groups begin with.
        models: All models, training and held-out.
        pool: Section `pool` of the config.
    """
    if pool.one_model_each:
        return {f"{name}/{model.name}": (model,) for model in models}
    return {name: tuple(models)}


@dataclass(frozen=True)
class RayReplicas:
    """Replicas as children of the process that starts them, which is the router."""

    groups: Mapping[str, Sequence[RewardModelConfig]]
    pool: PoolConfig
    router: str
    """Its name."""

    def start(self, group: str, name: str) -> Any:
        """Ask Ray for one more replica; it may wait for a node, which an autoscaler sees."""
        options: dict[str, Any] = {
            "num_cpus": self.pool.num_cpus,
            "num_gpus": self.pool.num_gpus,
            "resources": self.pool.resources,
            "label_selector": dict(self.pool.labels) or None,
            "scheduling_strategy": "SPREAD",
            "max_restarts": -1,
            # The client replays a lost call itself, so that its attempts are counted.
            "max_task_retries": 0,
            "concurrency_groups": {HEALTH_GROUP: 1},
        }
        actor = cast(Any, ray.remote)(**options)(RewardReplica)
        return actor.remote(name, self.groups[group], self.pool, self.router)

    def stop(self, handle: Any) -> None:
        """End a replica for good."""
        ray.kill(handle)

    def restart(self, handle: Any) -> None:
        """Kill a replica that hangs; Ray starts it again."""
        ray.kill(handle, no_restart=False)

    def draining_nodes(self) -> Iterable[str]:
        """Nodes that are about to go, by their hexadecimal ids; a question to Ray's control store of about 1 ms."""
        # There is no public way that does without the dashboard; Ray Train and Ray Data ask in this one.
        return cluster_state.get_draining_nodes()


def start_router(name: str, groups: Mapping[str, Sequence[RewardModelConfig]], pool: PoolConfig) -> Any:
    """Start the router of a pool under its name.

    Raises:
        ValueError: If the name is taken.
    """
    # Beside its driver, since a router on a spot node would take the whole pool down with it.
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
