"""Cancellation of the autoscaler request of a killed run.

The Ray Train controller of a run requests nodes from Ray's autoscaling coordinator and cancels the request when it
ends. A controller that is killed, with its driver or by Ray Tune, cannot cancel it. The coordinator would then reserve
the nodes for three more minutes: elastic runs would wait for them, and the cluster would start or keep idle nodes.
"""

from typing import Any

import ray

from srpo_ray.files import write_text
from srpo_ray.runs.folder import RunFolder

COORDINATOR = "AutoscalingCoordinator"
"""Name and namespace of the coordinator actor, which the first controller of a cluster starts."""


def record_autoscaler_request(folder: RunFolder, train_run: str) -> None:
    """Record the Ray Train id of the latest start of a run, under which it requests its workers."""
    write_text(folder.train_run, train_run + "\n")


def cancel_autoscaler_request(folder: RunFolder) -> None:
    """Cancel the request of the latest start of a run. Idempotent."""
    if not folder.train_run.exists():
        return
    try:
        coordinator: Any = ray.get_actor(COORDINATOR, namespace=COORDINATOR)
    except ValueError:
        return
    # Do not wait for the answer: a request whose cancellation is lost expires after three minutes.
    coordinator.cancel_request.remote(f"train-{folder.train_run.read_text().strip()}")
