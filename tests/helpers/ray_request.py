"""Requests for nodes at Ray's own coordinator, made by the part of Ray Train's controller that makes them."""

from types import SimpleNamespace
from typing import Any

import ray
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import get_or_create_autoscaling_coordinator
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import create_scaling_policy

from srpo_ray.runs.folder import RunFolder


def ask_for_nodes(folder: RunFolder) -> None:
    """Ask as the controller of the run's latest start."""
    controller: Any = create_scaling_policy(ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.01}))
    controller.after_controller_start(SimpleNamespace(run_id=train_run(folder)))
    assert has_nodes(train_run(folder))


def has_nodes(train_run: str) -> bool:
    """Whether nodes are reserved for a run of Ray Train."""
    coordinator: Any = get_or_create_autoscaling_coordinator()
    return bool(ray.get(coordinator.get_reserved_resources.remote(f"train-{train_run}")))


def train_run(folder: RunFolder) -> str:
    """Ray Train's id of the run's latest start."""
    return folder.train_run.read_text().strip()
