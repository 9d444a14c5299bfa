"""What a cluster can ever hold, when its nodes come only once they are asked for."""

from pathlib import Path

import pytest
import ray
import yaml

from srpo_ray.cluster.node_types import node_types
from srpo_ray.config import RunConfig, load_run
from srpo_ray.launch import capacity
from srpo_ray.launch.capacity import check_capacity, cluster_capacity, require_capacity
from tests.conftest import ROOT

RECIPES = ROOT / "configs" / "recipes"
FULL_NODE = [RECIPES / "flux_full_8x80gb.yaml", RECIPES / "rewards_own_node.yaml"]


@pytest.fixture
def scaled_to_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """cluster.yaml with its head up and no other node."""
    config = node_types(list(yaml.safe_load_all((ROOT / "cluster.yaml").read_text())))
    head = {"CPU": 16.0, "memory": 5e10}
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": head, "Labels": {}}])
    monkeypatch.setattr(ray, "cluster_resources", lambda: head)
    monkeypatch.setattr(capacity.cluster_state, "get_cluster_config", lambda: config)


def begin(config: RunConfig) -> None:
    """What is asked before a run starts anything."""
    check_capacity(config)
    require_capacity(config.rewards.pool, num_models=1)


@pytest.mark.usefixtures("scaled_to_zero")
def test_nodes_that_may_come_count_one_by_one() -> None:
    # Four trainer nodes of 192 CPUs and 8 slots; 100 CPUs go into one node once, whatever all nodes have together.
    assert cluster_capacity({"CPU": 8, "trainer_slot": 1}) == (32, {"CPU": 16 + 4 * 192 + 8 * 16, "trainer_slot": 32})
    assert cluster_capacity({"CPU": 100, "trainer_slot": 1})[0] == 4
    assert cluster_capacity({"trainer_slot": 1, "reward_slot": 1})[0] == 0


@pytest.mark.usefixtures("scaled_to_zero")
def test_run_that_the_node_types_can_hold_is_begun() -> None:
    config = load_run(FULL_NODE)
    begin(config)


@pytest.mark.usefixtures("scaled_to_zero")
@pytest.mark.parametrize(
    "change", ["training.resources={trainer_slots: 1}", "training.num_gpus=16", "rewards.pool.resources={reward: 1}"]
)
def test_run_that_no_node_type_can_hold_is_refused_with_their_names(change: str) -> None:
    config = load_run(FULL_NODE, [change])
    with pytest.raises(ValueError, match=r"expected|does not fit") as refused:
        begin(config)
    assert "node types of the cluster: head (CPU 16; at most 1), trainer (" in str(refused.value)
    assert "GPU 8" in str(refused.value)
    assert "reward_spot (" in str(refused.value)


@pytest.mark.usefixtures("scaled_to_zero")
def test_cluster_of_nodes_started_by_hand_is_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity.cluster_state, "get_cluster_config", lambda: None)
    assert cluster_capacity({"CPU": 8}) == (2, {"CPU": 16})
    with pytest.raises(ValueError, match=r"or add nodes$"):
        check_capacity(load_run(FULL_NODE))


def test_file_without_node_types_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a file with available_node_types or with a RayCluster"):
        node_types([{"cluster_name": "x"}])
