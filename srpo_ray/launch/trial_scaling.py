"""Scaling policy of Ray Train for a run that shares the cluster with others of its experiment.

Ray's elastic policy suits one run. Its coordinator serves runs in the order of their start, each up to its maximum: the
first run takes all that a later one needs to start. Here the process of the experiment divides the workers.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision, ScalingDecision, ScalingPolicy

from srpo_ray.launch.worker_shares import Share, WorkerRange, WorkerShares
from srpo_ray.runs.folder import CHECKPOINT_SAVED, RunFolder, read_rows

INTERVAL_S = 1.0
"""Seconds between two looks at the share of the run."""


@dataclass(frozen=True)
class SharedCluster:
    """Place of a run in its experiment."""

    shares: WorkerShares
    name: str
    """Name of the run."""
    workers: WorkerRange
    resources: Mapping[str, float]
    """Resources that one worker reserves."""


class TrialScalingPolicy(ScalingPolicy):
    """Group of workers of the size that the experiment gives the run.

    A new size restarts the group from the newest checkpoint. The policy waits for the next checkpoint with it, so that
    no update is repeated, and adds workers at most once in `resize_interval_s`.

    Args:
        scaling: Settings of Ray Train.
        cluster: Place of the run in its experiment.
        folder: Folder of the run.
        resize_interval_s: Least seconds from a start of the group until workers are added.
    """

    def __init__(
        self, scaling: ScalingConfig, cluster: SharedCluster, folder: RunFolder, resize_interval_s: float
    ) -> None:
        super().__init__(scaling)
        self._cluster = cluster
        self._folder = folder
        self._resize_interval_s = resize_interval_s
        self._share = Share(0, 0)
        self._next = 0.0
        self._saved: int | None = None

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Start a group as soon as the share is at least the minimum."""
        self._look()
        self._saved = None
        if self._share.now < self._cluster.workers.least:
            # Ray Train asks again at once, and would use a core for it.
            time.sleep(INTERVAL_S / 2)
            return NoopDecision()
        return self._resize()

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """Replace the group after the next checkpoint if the share has changed."""
        if not self._look():
            return NoopDecision()
        workers, share = worker_group_state.num_workers, self._share.now
        age = time.monotonic() - worker_group_state.start_time
        if share == workers or share < self._cluster.workers.least:
            self._saved = None
            return NoopDecision()
        if share > workers and age < self._resize_interval_s:
            return NoopDecision()
        saved = sum(row["event"] == CHECKPOINT_SAVED for row in read_rows(self._folder.events))
        if self._saved is None or saved == self._saved:
            self._saved = saved
            return NoopDecision()
        return self._resize()

    def _look(self) -> bool:
        """Read the share if that is due, and request nodes for it. Return whether it was due."""
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + INTERVAL_S
        self._share = self._cluster.shares.share(self._cluster.name, self._share)
        self._maybe_send_resource_request()
        return True

    def _resize(self) -> ResizeDecision:
        return ResizeDecision(self._share.now, {**self._cluster.resources})

    def _get_num_workers_for_resource_request(self) -> int:
        return max(self._share.later, self._cluster.workers.least)
