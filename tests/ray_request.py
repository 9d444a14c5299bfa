"""Requests for nodes at Ray's own coordinator, as a controller of Ray Train makes them."""

from typing import Any

import ray
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import get_or_create_autoscaling_coordinator

from srpo_ray.training.request import requester
from srpo_ray.training.run_folder import RunFolder


def ask_for_nodes(folder: RunFolder) -> None:
    """Ask as the controller of the run's latest start."""
    request = coordinator().request_resources.remote(requester(train_run(folder)), [{"CPU": 0.01}], expire_after_s=600)
    ray.get(request)
    assert has_nodes(train_run(folder))


def has_nodes(train_run: str) -> bool:
    """Whether nodes are reserved for a run of Ray Train."""
    return bool(ray.get(coordinator().get_reserved_resources.remote(requester(train_run))))


def train_run(folder: RunFolder) -> str:
    """Ray Train's id of the run's latest start."""
    return folder.train_run.read_text().strip()


def coordinator() -> Any:
    """Ray's actor."""
    return get_or_create_autoscaling_coordinator()
