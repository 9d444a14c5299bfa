"""Runs at the same time with `max_concurrent_trials: auto`: as many as the cluster has room for."""

import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray import tune

from srpo_ray.config import RunConfig
from srpo_ray.config.pool_key import pool_key
from srpo_ray.launch.capacity import fitting_replicas, is_one_machine, node_types
from srpo_ray.search.budget_terms import BudgetTerms

INTERVAL_S = 10.0
"""Seconds between two looks at the cluster."""


@dataclass(frozen=True)
class Replicas:
    """Reward replicas that hold a part of the cluster while the experiment runs."""

    need: Mapping[str, float]
    """Resources of one replica, by Ray's names."""
    labels: Mapping[str, str]
    """Labels of the nodes that they may run on; nodes of an autoscaler are assumed to have them."""
    count: int


@dataclass(frozen=True)
class RunNeeds:
    """Resources of an experiment's runs."""

    worker: Mapping[str, float]
    """Largest amounts that one trainer worker of any run reserves, by Ray's names."""
    workers: int
    """Workers that every run can start with: the most of any run, or the minimum of its range."""
    most_workers: int
    """Most workers of any run."""
    replicas: Sequence[Replicas]
    most: int
    """Number of runs of the experiment."""


@dataclass(frozen=True)
class Nodes:
    """Equal nodes."""

    resources: Mapping[str, float]
    labels: Mapping[str, str] | None
    """Labels; None for nodes that an autoscaler may add."""
    count: int


def run_needs(runs: Sequence[RunConfig], most: int) -> RunNeeds:
    """Collect what the runs of an experiment need.

    Args:
        runs: Configs of its runs.
        most: Number of its runs.
    """
    workers = [run.training.worker_resources for run in runs]
    names = dict.fromkeys(name for worker in workers for name in worker)
    pools = {pool_key(run): run for run in runs if not run.rewards.in_process}.values()
    return RunNeeds(
        worker={name: max(worker.get(name, 0.0) for worker in workers) for name in names},
        workers=max(run.training.min_workers for run in runs),
        most_workers=max(run.training.max_workers for run in runs),
        replicas=[
            Replicas(pool.replica_resources, pool.labels, run.reward_replicas)
            for run in pools
            for pool in [run.rewards.pool]
        ],
        most=most,
    )


def cluster_concurrency(needs: RunNeeds) -> int:
    """Count the runs that the connected cluster has room for: with its nodes, or with all that its autoscaler may add.

    A run whose number of workers is a range counts with its minimum. One machine has room for the runs whose workers
    have a core each for every CPU that they reserve.

    Returns:
        At least 1, and at most the number of runs.
    """
    fitting = min(cluster_workers(needs)[1] // needs.workers, needs.most)
    if is_one_machine():
        # A local Ray offers more CPUs than there are cores, because most of its processes wait.
        fitting = min(fitting, (os.cpu_count() or 1) // (needs.worker["CPU"] * needs.workers))
    return max(1, int(fitting))


def cluster_workers(needs: RunNeeds) -> tuple[int, int]:
    """Count the trainer workers that the connected cluster has room for beside the reward replicas.

    Returns:
        Workers on its nodes, and on all that its autoscaler may add if those are more.
    """
    now = [Nodes(node["Resources"], node["Labels"], 1) for node in ray.nodes() if node["Alive"]]
    ever = [Nodes(kind.resources, None, kind.max_nodes) for kind in node_types()]
    fitting = fitting_workers(needs, now)
    return fitting, max(fitting, fitting_workers(needs, ever))


def fitting_workers(needs: RunNeeds, nodes: Iterable[Nodes]) -> int:
    """Count the trainer workers that fit beside the reward replicas.

    Replicas are placed first, on nodes that have the least room for workers.

    Args:
        needs: What runs and replicas need.
        nodes: Nodes of the cluster.
    """
    free = sorted(nodes, key=lambda node: fitting_replicas(needs.worker, node.resources))
    for replicas in needs.replicas:
        free = _without(replicas, free)
    return sum(int(fitting_replicas(needs.worker, node.resources)) * node.count for node in free)


def _without(replicas: Replicas, nodes: Sequence[Nodes]) -> list[Nodes]:
    """Nodes with what the replicas leave of them. Replicas that fit nowhere take nothing."""
    left, count = list[Nodes](), replicas.count
    for node in nodes:
        each = fitting_replicas(replicas.need, node.resources)
        allowed = node.labels is None or replicas.labels.items() <= node.labels.items()
        if not each or not count or not allowed or math.isinf(each):
            left.append(node)
            continue
        full = min(int(count // each), node.count)
        rest = min(count - full * int(each), int(each)) if full < node.count else 0
        partly = 1 if rest else 0
        left += [
            Nodes(_minus(node.resources, replicas.need, number), node.labels, held)
            for number, held in ((int(each), full), (rest, partly), (0, node.count - full - partly))
            if held
        ]
        count -= full * int(each) + rest
    return left


def _minus(resources: Mapping[str, float], need: Mapping[str, float], number: int) -> dict[str, float]:
    return {name: amount - number * need.get(name, 0.0) for name, amount in resources.items()}


def with_current_number(terms: BudgetTerms, needs: RunNeeds | None) -> BudgetTerms:
    """Return the terms of a budget with the number of runs that the connected cluster has room for now.

    Args:
        terms: Terms, whose number is that at the start of the experiment.
        needs: What runs and replicas need; None if the number does not follow the cluster.
    """
    return terms if needs is None else replace(terms, concurrency=cluster_concurrency(needs))


class FollowCluster(tune.Callback):
    """Raises or lowers the number of trials at the same time as nodes join or leave the cluster.

    A lower number stops no trial: it starts no new one.

    Args:
        users: What uses the number, as its attribute `max_concurrent`: the source of the trials, the gate of a budget.
        needs: What runs and replicas need.
    """

    def __init__(self, users: Sequence[Any], needs: RunNeeds) -> None:
        self._users = users
        self._needs = needs
        self._next = 0.0

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Ray Tune again and again."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + INTERVAL_S
            number = cluster_concurrency(self._needs)
            for user in self._users:
                user.max_concurrent = number
