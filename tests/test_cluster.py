"""The cluster file against Ray's own check, and against what the project pins and asks for."""

from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.conftest import ROOT


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_ray_accepts_the_cluster_file(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(cluster))


def test_ray_refuses_a_misspelt_key_in_it(cluster: dict[str, Any]) -> None:
    cluster["available_node_types"]["trainer"]["max_wokers"] = 1
    with pytest.raises(Exception, match="max_wokers"):
        validate_config(prepare_config(cluster))


def test_trainers_and_rewards_have_slots_that_the_other_lacks(cluster: dict[str, Any]) -> None:
    resources = {name: set(node["resources"]) for name, node in cluster["available_node_types"].items()}
    assert {"trainer_slot"} == resources["trainer"] - resources["reward"]
    assert {"reward_slot"} == resources["reward"] - resources["trainer"]
    assert not {"trainer_slot", "reward_slot"} & resources["head"]


def test_head_runs_the_sweep_on_the_cluster_and_not_beside_it(cluster: dict[str, Any]) -> None:
    (shell,) = cluster["head_setup_commands"]
    assert "RAY_ADDRESS=auto" in shell
    assert any("make setup" in command for command in cluster["setup_commands"])
