"""Runs at the same time that a cluster has room for beside the reward replicas."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from srpo_ray.config import apply, load_run
from srpo_ray.launch.capacity import NodeType
from srpo_ray.search import concurrency
from srpo_ray.search.budget_gate import BudgetGate
from srpo_ray.search.budget_terms import BudgetTerms
from srpo_ray.search.concurrency import (
    INTERVAL_S,
    FollowCluster,
    Nodes,
    Replicas,
    RunNeeds,
    cluster_concurrency,
    fitting_workers,
    run_needs,
    with_current_number,
)
from tests.conftest import ROOT, SMALL_WORLD

NODE = {"CPU": 64.0, "GPU": 8.0}
WORKER = {"CPU": 8.0, "GPU": 1.0}
REPLICA = {"CPU": 1.0, "GPU": 0.25}


def needs(workers: int = 4, replicas: int = 0, labels: dict[str, str] | None = None, most: int = 100) -> RunNeeds:
    return RunNeeds(WORKER, workers, workers, [Replicas(REPLICA, labels or {}, replicas)] if replicas else [], most)


@pytest.mark.parametrize(
    ("workers", "replicas", "nodes", "expected"),
    [
        (4, 0, 1, 2),
        (4, 0, 3, 6),
        # A run of 12 workers spans two nodes.
        (12, 0, 3, 2),
        # Four replicas hold a GPU, so 7 are left on the first node.
        (4, 4, 1, 1),
        (1, 4, 2, 15),
        (1, 5, 2, 14),
        # 33 replicas fill a node and hold a GPU of the next.
        (1, 33, 3, 15),
        (16, 0, 1, 0),
    ],
)
def test_runs_that_fit_are_whole_ones_beside_the_replicas(
    workers: int, replicas: int, nodes: int, expected: int
) -> None:
    each = [Nodes(NODE, {}, 1) for _ in range(nodes)]
    assert fitting_workers(needs(workers, replicas), each) // workers == expected
    assert fitting_workers(needs(workers, replicas), [Nodes(NODE, None, nodes)]) // workers == expected


def test_replicas_take_nothing_of_nodes_without_their_labels() -> None:
    nodes = [Nodes(NODE, {}, 1), Nodes({"CPU": 16.0, "GPU": 1.0}, {"role": "reward"}, 1)]
    assert fitting_workers(needs(8, 4, {"role": "reward"}), nodes) == 8
    assert fitting_workers(needs(8, 5, {"role": "reward"}), nodes) == 8
    assert fitting_workers(needs(9, 4), nodes) == 8


@pytest.mark.parametrize(
    ("cores", "cpus", "expected"), [(2, 1.0, 2), (8, 2.0, 4), (1, 1.0, 1), (2, 4.0, 1), (64, 0.5, 40)]
)
def test_one_machine_runs_as_many_as_it_has_cores_for(
    cores: int, cpus: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ray is told of more CPUs than there are.
    monkeypatch.setattr(concurrency.ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 999}, "Labels": {}}])
    monkeypatch.setattr(concurrency, "is_one_machine", lambda: True)
    monkeypatch.setattr(concurrency, "node_types", list)
    monkeypatch.setattr(concurrency.os, "cpu_count", lambda: cores)
    assert cluster_concurrency(RunNeeds({"CPU": cpus}, 1, 1, [], most=40)) == expected


def test_number_follows_the_nodes_and_what_an_autoscaler_may_add(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"Alive": True, "Resources": NODE, "Labels": {}}]
    kinds: list[NodeType] = []
    monkeypatch.setattr(concurrency.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(concurrency, "node_types", lambda: kinds)
    monkeypatch.setattr(concurrency, "is_one_machine", lambda: False)
    assert cluster_concurrency(needs()) == 2
    nodes.append({"Alive": True, "Resources": NODE, "Labels": {}})
    nodes.append({"Alive": False, "Resources": NODE, "Labels": {}})
    assert cluster_concurrency(needs()) == 4
    kinds.append(NodeType("gpu", NODE, 5))
    assert cluster_concurrency(needs()) == 10
    assert cluster_concurrency(needs(most=7)) == 7
    # At least one, which the check of the cluster has found to fit.
    assert cluster_concurrency(needs(workers=100)) == 1


def test_searcher_and_budget_get_the_number_of_the_cluster_of_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, number = [100.0], [2]
    monkeypatch.setattr(concurrency, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(concurrency, "cluster_concurrency", lambda _: number[0])
    searcher = SimpleNamespace(max_concurrent=1)
    gate = BudgetGate(tmp_path, BudgetTerms({"hours": 1.0}, None, 0.0, 9), "A_search")
    callback = FollowCluster([searcher, gate], needs())
    callback.on_step_begin(1, [])
    assert (searcher.max_concurrent, gate.max_concurrent) == (2, 2)
    number[0] = 4
    callback.on_step_begin(2, [])
    assert searcher.max_concurrent == 2
    now[0] += INTERVAL_S
    callback.on_step_begin(3, [])
    assert (searcher.max_concurrent, gate.max_concurrent) == (4, 4)
    assert with_current_number(BudgetTerms({"hours": 1.0}, None, 0.0, 9), needs()).concurrency == 4
    assert with_current_number(BudgetTerms({"hours": 1.0}, None, 0.0, 9), None).concurrency == 9


def test_needs_are_those_of_the_largest_run_and_of_every_pool() -> None:
    recipes = ROOT / "configs" / "recipes"
    flux = load_run([recipes / "flux_lora_8x80gb.yaml", recipes / "rewards_own_node.yaml"])
    workers = {"training.num_workers": {"min": 4, "max": 16}, "training.batch_size": 64}
    ranging = apply(flux, {**workers, "rewards.pool.num_replicas": {"min": 1, "max": 3}})
    found = run_needs([flux, ranging, load_run([SMALL_WORLD], ["rewards.in_process=true"])], 5)
    # Of 8, of 4 to 16, and of 1.
    assert (found.workers, found.most_workers) == (8, 16)
    assert found.worker == flux.training.worker_resources
    assert sorted(replicas.count for replicas in found.replicas) == [2, 3]
    assert math.isfinite(found.most)
