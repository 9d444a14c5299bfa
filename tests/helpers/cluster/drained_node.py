"""A Ray cluster of two nodes, one of which gets notice: a program of its own, as it has a Ray of its own.

Arguments: address of the metadata service, and a file whose appearance gives notice there. Prints, as JSON, what Ray
says of draining nodes, and the id of the node that is watched.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray._private.state import state
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


@ray.remote
class Work:
    def begun(self) -> None:
        """Answers when it runs."""


def main(url: str, give_notice: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        watched = cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        # A node without work goes as soon as it is drained.
        there = NodeAffinitySchedulingStrategy(watched.node_id, soft=False)
        work: Any = Work.options(scheduling_strategy=there).remote()
        ray.get(work.begun.remote())
        before = state.get_draining_nodes()
        command = [sys.executable, "-m", "srpo_ray.cli", "watch-spot", "--interval", "0.2"]
        command += ["--metadata-url", url, "--node-id", watched.node_id]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as watcher:
            assert watcher.stderr is not None
            first = watcher.stderr.readline()
            give_notice.touch()
            rest = watcher.stderr.read()
        deadline = time.monotonic() + 30
        while not (after := state.get_draining_nodes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        found = {"before": before, "after": after, "watched": watched.node_id, "exit": watcher.returncode}
        print(json.dumps({**found, "log": (first + rest).splitlines()}))
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
