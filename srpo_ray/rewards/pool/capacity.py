"""Whether a cluster can ever hold a pool: Ray itself would wait for the missing resources for ever."""

import math
from collections.abc import Mapping

import ray
from ray._private.state import state as cluster_state

from srpo_ray.config.count import smallest
from srpo_ray.config.reward import PoolConfig


def replica_resources(pool: PoolConfig) -> dict[str, float]:
    """What one replica reserves, by Ray's names of the resources; zeros left out."""
    resources = {"CPU": pool.num_cpus, "GPU": pool.num_gpus, **pool.resources}
    return {name: amount for name, amount in resources.items() if amount > 0}


def require_capacity(pool: PoolConfig, num_models: int) -> None:
    """Compare the pool with everything the cluster has, in use or not, and with what an autoscaler may add.

    Args:
        pool: Section `pool` of the config. Of a range the least number has to fit: the others start if there is room.
        num_models: Reward models, held-out ones too.

    Raises:
        ValueError: If there are more replicas than can ever run at once.
    """
    need, count = replica_resources(pool), pool.least_replicas(num_models)
    capacity, available = cluster_capacity(need, pool.labels)
    if capacity < count:
        where = f" on nodes labelled {pool.labels}" if pool.labels else ""
        raise ValueError(
            f"`rewards.pool.num_replicas: {smallest(pool.num_replicas)}`, {count} replicas in all with {need} each,"
            f" does not fit: the cluster can hold {capacity:g} such replicas{where} ({available} in all); lower"
            " num_replicas or what each reserves, or add nodes"
        )


def cluster_capacity(
    need: Mapping[str, float], labels: Mapping[str, str] | None = None
) -> tuple[float, dict[str, float]]:
    """How many processes with `need` the cluster can ever hold, and what it has of those resources in all.

    Args:
        need: Amounts by Ray's names of the resources.
        labels: Labels that a node must have; an autoscaler's nodes are taken to have them.
    """
    # Node by node, since a process cannot be spread over two.
    wanted = (labels or {}).items()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and wanted <= node["Labels"].items()]
    capacity, available = sum(fitting_replicas(need, node) for node in nodes), ray.cluster_resources()
    # Set where an autoscaler runs. Ray Train asks the same question in this way, as there is no public one.
    limit = cluster_state.get_max_resources_from_cluster_config()
    if limit and fitting_replicas(need, limit) > capacity:
        capacity, available = fitting_replicas(need, limit), dict(limit)
    return capacity, {name: available.get(name, 0) for name in need}


def fitting_replicas(need: Mapping[str, float], available: Mapping[str, float]) -> float:
    """How many times `need` goes into `available`; infinite if nothing is needed."""
    # The small number keeps 1 / 0.1 at ten, whatever the rounding.
    return min((available.get(name, 0) / amount + 1e-9) // 1 for name, amount in need.items()) if need else math.inf
