"""What a Ray that the program starts itself lets in."""

import ipaddress
from typing import Any

import psutil
import pytest
import ray
import ray._private.worker

pytestmark = pytest.mark.ray


@ray.remote(num_cpus=0)
class Actor:
    def answer(self) -> int:
        return 1


def test_every_port_of_a_local_ray_is_on_loopback(ray_cluster: None) -> None:
    actor: Any = Actor.remote()
    assert ray.get(actor.answer.remote()) == 1
    node: Any = ray._private.worker.global_worker.node
    session = node.get_session_dir_path()
    # Beside this Ray, other tests may have one of their own.
    servers = [each for each in psutil.Process().children() if any(session in word for word in each.cmdline())]
    workers = [each for server in servers for each in server.children(recursive=True)]
    listening = {
        (process.name(), connection.laddr.ip)
        for process in [psutil.Process(), *servers, *workers]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {"gcs_server", "raylet"} <= {name for name, _ in listening}
    open_to_others = [(name, ip) for name, ip in listening if not _is_loopback(ip)]
    assert not open_to_others


def _is_loopback(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
