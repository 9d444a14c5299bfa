"""Starts a local Ray as the program does, in a process that has done nothing else; prints what it finds, as JSON.

`listening` is what listens, `node` the Ray's only node, `joined` the node that another command meets at address `auto`.
"""

import json
import subprocess
import sys
from typing import Any

import psutil
import ray
from ray._private.utils import write_ray_address

from srpo_ray.launch.session import ray_session


@ray.remote(num_cpus=0)
class Actor:
    def answer(self) -> int:
        return 1


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


def node_of(address: str | None) -> str:
    """The node that one meets at an address."""
    with ray_session(address):
        return ray.nodes()[0]["NodeID"]


def main() -> None:
    with ray_session(None):
        actor: Any = Actor.remote()
        assert ray.get(actor.answer.remote()) == 1
        # What `ray start` leaves behind, so that `auto` is this Ray where several run.
        write_ray_address(ray.get_runtime_context().gcs_address)
        found = {"listening": listening(), "node": ray.nodes()[0]["NodeID"]}
        joining = [sys.executable, "-m", __spec__.name, "auto"]
        found["joined"] = subprocess.run(joining, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    print(json.dumps(found))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(node_of(sys.argv[1]))
    else:
        main()
