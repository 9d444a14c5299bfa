"""Ray nodes that share this machine, with trainer slots of their own, and what can happen to them."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from tests.helpers.ray_drain import drain

MARK = "SRPO_RAY_TEST"


class Nodes:
    """A head for the driver and the reward pool, and nodes with one trainer slot each."""

    def __init__(self, mark: str, trainers: int = 2) -> None:
        """Start the head and connect to it; `fill` brings the trainer nodes.

        Args:
            mark: What the processes of this cluster are told from others by.
            trainers: Trainer nodes of the full cluster.
        """
        self._mark = f"{MARK}={mark}".encode()
        self._full = trainers
        self._trainers: list[Any] = []
        self._cluster = Cluster(
            initialize_head=True,
            # Else a node that a thread has started ends with that thread.
            shutdown_at_exit=False,
            head_node_args={"num_cpus": 8, "resources": {"reward_slot": 4}, "include_dashboard": False},
        )
        environment = {
            MARK: mark,
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
            "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5",
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
            "TOKENIZERS_PARALLELISM": "false",
        }
        # The controller reads its settings in a process that the driver's own environment does not reach.
        os.environ.update(environment)
        ray.init(address=self._cluster.address, runtime_env={"env_vars": environment}, log_to_driver=False)

    def fill(self, trainers: int | None = None) -> None:
        """Bring trainer nodes back until there are as many as at first, or so many."""
        while len(self._trainers) < (trainers or self._full):
            # More cores than the head has, as on clusters that people rent: Ray places there what may be anywhere.
            node = self._cluster.add_node(num_cpus=16, resources={"trainer_slot": 1}, wait=False)
            self._trainers.append(node)
        self._cluster.wait_for_nodes(timeout=120)

    def lose_node(self) -> None:
        """Kill a trainer node with all that runs on it."""
        self._cluster.remove_node(self._trainers.pop(), allow_graceful=False)

    def warn_of_preemption(self, seconds: float) -> None:
        """Tell Ray that the newest trainer node will go in so many seconds, as a watcher of spot nodes does."""
        drain(str(self._cluster.address), self._trainers[-1].node_id, seconds)

    def kill(self, name: str) -> None:
        """Kill one process of this cluster whose title contains a name, as soon as there is one."""
        self.send(signal.SIGKILL, name)

    def send(self, what: signal.Signals, name: str) -> None:
        """Send a signal to such a process."""
        wait_until(lambda: bool(self._processes(name)), f"a process called {name}")
        os.kill(self._processes(name)[0], what)

    def close(self) -> None:
        """Stop everything."""
        ray.shutdown()
        self._cluster.shutdown()

    def _processes(self, name: str) -> list[int]:
        found = [each for each in Path("/proc").iterdir() if each.name.isdigit() and self._is(each, name.encode())]
        return [int(process.name) for process in found]

    def _is(self, process: Path, name: bytes) -> bool:
        try:
            return name in (process / "cmdline").read_bytes() and self._mark in (process / "environ").read_bytes()
        except OSError:
            return False


def wait_until(happened: Callable[[], bool], what: str, timeout_s: float = 240.0) -> None:
    """Return when something has happened; fail where that takes too long."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.1)
