"""Starts a local Ray as the program does, in a process that has done nothing else, and prints what listens, as JSON."""

import json
from typing import Any

import psutil
import ray

from srpo_ray.training.launch import ray_session


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


if __name__ == "__main__":
    with ray_session(None):
        actor: Any = Actor.remote()
        assert ray.get(actor.answer.remote()) == 1
        print(json.dumps(listening()))
