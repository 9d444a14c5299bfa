"""The request for nodes that Ray Train makes for a run, taken back where Ray Train cannot do that itself.

The controller of a run asks Ray's autoscaling coordinator for its workers and takes that back when it ends. One that is
killed, with its driver or by Ray Tune, cannot: for three minutes more the coordinator would reserve nodes for it, so
that an elastic run beside it or after it waits for them, and a cluster starts or keeps nodes that nobody uses.
"""

from typing import Any

import ray

from srpo_ray.files import write_text
from srpo_ray.runs.folder import RunFolder

COORDINATOR = "AutoscalingCoordinator"
"""Name and namespace of Ray's actor, which the first controller of a cluster starts."""


def record_autoscaler_request(folder: RunFolder, train_run: str) -> None:
    """Keep under which id of Ray Train a run asks for its workers from now on."""
    write_text(folder.train_run, train_run + "\n")


def cancel_autoscaler_request(folder: RunFolder) -> None:
    """Cancel what the latest start of a run has asked for; no error where there is nothing (any more)."""
    if not folder.train_run.exists():
        return
    try:
        coordinator: Any = ray.get_actor(COORDINATOR, namespace=COORDINATOR)
    except ValueError:
        return
    # Without waiting: what gets lost on the way ends by itself after those minutes.
    coordinator.cancel_request.remote(f"train-{folder.train_run.read_text().strip()}")
