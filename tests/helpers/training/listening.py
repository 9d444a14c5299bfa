"""Starts a local Ray as the program does, in a process that has done nothing else; prints what it finds, as JSON.

`listening` is what listens, `node` the Ray's only node, `joined` the node that another command meets at address `auto`,
`environment` that of the first actor, and `known` whether its process had started before the actor was requested.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any, cast

import psutil
import ray
from ray._private.utils import write_ray_address

from srpo_ray.launch.session import ray_session


@ray.remote(num_cpus=0)
class Actor:
    def process(self) -> tuple[dict[str, str], int]:
        """Environment and id of this process."""
        return dict(os.environ), os.getpid()


def listening() -> list[tuple[str, str]]:
    """Name and address of each port that this process and all that it started listen at."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sorted(
        {
            (process.name(), connection.laddr.ip)
            for process in processes
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
    )


def idle_workers() -> set[int]:
    """Ids of the processes that nobody has requested, after a wait until Ray has some."""
    deadline = time.monotonic() + 60
    while not _idle() and time.monotonic() < deadline:
        time.sleep(0.1)
    # Each takes its name before it registers.
    time.sleep(2)
    return _idle()


def _idle() -> set[int]:
    found: set[int] = set()
    for each in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if each.cmdline()[:1] == ["ray::IDLE"]:
                found.add(each.pid)
    return found


def node_of(address: str | None) -> str:
    """The node that one meets at an address."""
    with ray_session(address):
        return ray.nodes()[0]["NodeID"]


def main() -> None:
    with ray_session(None):
        idle, actor = idle_workers(), cast(Any, Actor).remote()
        environment, process = ray.get(actor.process.remote())
        # What `ray start` leaves behind, so that `auto` is this Ray where several run.
        write_ray_address(ray.get_runtime_context().gcs_address)
        found = {"listening": listening(), "node": ray.nodes()[0]["NodeID"]}
        found |= {"environment": environment, "known": process in idle}
        joining = [sys.executable, "-m", __spec__.name, "auto"]
        found["joined"] = subprocess.run(joining, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    print(json.dumps(found))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(node_of(sys.argv[1]))
    else:
        main()
