"""Checks of a config against the cluster's resources: Ray would wait indefinitely for missing resources."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import ray
from ray._private.state import state as cluster_state

from srpo_ray.config import RunConfig
from srpo_ray.config.count import smallest
from srpo_ray.config.rewards import PoolConfig


def check_capacity(config: RunConfig) -> None:
    """Check that the cluster can run the trainer workers, alone and together with the reward replicas.

    The minimum of a range has to fit; further workers and replicas start if there is room.

    Raises:
        ValueError: If the cluster can never run all of them at once.
    """
    need, workers = config.training.worker_resources, config.training.min_workers
    capacity, available = cluster_capacity(need)
    if capacity < workers:
        raise ValueError(
            f"training.num_workers: expected at most {capacity:g} workers of {need} each, as the cluster has"
            f" {available}, got {workers}; lower it or what each reserves, or add nodes{node_types_text()}"
        )

    replica = {} if config.rewards.in_process else config.rewards.pool.replica_resources
    replicas = config.rewards.pool.least_replicas(len(config.rewards.models) + len(config.evaluation.held_out))
    together = {name: workers * need.get(name, 0) + replicas * replica.get(name, 0) for name in need | replica}
    _, available = cluster_capacity(together)
    # This compares sums over all nodes. Ray's placement decides the cases that the sums do not.
    if any(amount > available[name] for name, amount in together.items()):
        raise ValueError(
            f"training.num_workers: expected {workers} workers of {need} and"
            f" {replicas} reward replicas of {replica} to fit the cluster together, got"
            f" {available} for {together}; lower either number or what each reserves, or add nodes{node_types_text()}"
        )


def require_capacity(pool: PoolConfig, num_models: int, others: int = 0) -> None:
    """Check that the cluster can run the reward pool, with all resources in use or not, and with an autoscaler's nodes.

    Args:
        pool: Section `pool` of the config. The minimum of a range has to fit; further replicas start if there is room.
        num_models: Number of reward models, including held-out ones.
        others: Replicas of other pools that run at the same time; each is taken to need as much as one of this pool.

    Raises:
        ValueError: If the cluster can never run all replicas at once.
    """
    need, count = pool.replica_resources, pool.least_replicas(num_models) + others
    capacity, available = cluster_capacity(need, pool.labels)
    if capacity < count:
        where = f" on nodes labelled {pool.labels}" if pool.labels else ""
        raise ValueError(
            f"`rewards.pool.num_replicas: {smallest(pool.num_replicas)}`, {count} replicas in all with {need} each,"
            f" does not fit: the cluster can run {capacity:g} such replicas{where} ({available} in all); lower"
            f" num_replicas or what each reserves, or add nodes{node_types_text()}"
        )


def cluster_capacity(
    need: Mapping[str, float], labels: Mapping[str, str] | None = None
) -> tuple[float, dict[str, float]]:
    """Count the processes with `need` that the cluster can ever run, and sum up its amounts of those resources.

    Args:
        need: Amounts by Ray's names of the resources.
        labels: Labels that a node must have; nodes of an autoscaler are assumed to have them.
    """
    # Count node by node, since a process cannot span two nodes.
    wanted = (labels or {}).items()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and wanted <= node["Labels"].items()]
    now, types = ray.cluster_resources(), node_types()
    capacity = max(
        sum(fitting_replicas(need, node) for node in nodes),
        sum(fitting_replicas(need, kind.resources) * kind.max_nodes for kind in types),
    )
    ever = {name: sum(kind.resources.get(name, 0) * kind.max_nodes for kind in types) for name in need}
    return capacity, {name: max(now.get(name, 0), ever[name]) for name in need}


@dataclass(frozen=True)
class NodeType:
    """Node type that the cluster's autoscaler may start."""

    name: str
    resources: dict[str, float]
    max_nodes: int


def node_types() -> list[NodeType]:
    """List the node types of a cluster's autoscaler; empty for a cluster without an autoscaler."""
    # Ray has no public API for this; Ray Train makes the same call. A negative number means no limit.
    config = cluster_state.get_cluster_config()
    return [
        NodeType(group.name, dict(group.resources), group.max_count if group.max_count >= 0 else sys.maxsize)
        for group in (config.node_group_configs if config else ())
    ]


def needs_no_worker(config: RunConfig) -> bool:
    """Test whether a run on a single machine is trained in the calling process, without those of Ray Train.

    True for one worker on the CPU. Other processes would protect the run from nothing there, and their start takes as
    long as a dozen updates of a small model.
    """
    training = config.training
    return training.max_workers == 1 and not training.num_gpus and not training.resources


def is_one_machine() -> bool:
    """Test whether the cluster has one node, and no autoscaler that could start more."""
    return sum(node["Alive"] for node in ray.nodes()) == 1 and not node_types()


def node_types_text() -> str:
    """Format the node types as the end of a message; empty without an autoscaler."""
    kinds = [
        f"{kind.name} ({', '.join(f'{name} {amount:g}' for name, amount in sorted(kind.resources.items()))};"
        f" at most {kind.max_nodes})"
        for kind in node_types()
    ]
    return f"; node types of the cluster: {', '.join(kinds)}" if kinds else ""


def fitting_replicas(need: Mapping[str, float], available: Mapping[str, float]) -> float:
    """Count how many times `need` fits into `available`; infinite if `need` is empty."""
    # The small number makes 1 / 0.1 ten in spite of rounding.
    return min((available.get(name, 0) / amount + 1e-9) // 1 for name, amount in need.items()) if need else math.inf
