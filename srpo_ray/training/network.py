"""Which addresses a run's processes use: loopback where Ray is this machine's own, else the one Ray knows a node by."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import ray
from ray._private import ray_constants, services
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

_LISTENER_TIMEOUT_S = 5.0


@contextmanager
def on_loopback() -> Iterator[None]:
    """Let a Ray that is started in the block listen on 127.0.0.1 alone.

    Else it listens on every address of the machine, where anyone who reaches a port could have code run here. An
    address given to `ray.init` does not help, as it takes loopback for a mistake; its switch for macOS does.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def is_only_on_loopback(address: str) -> bool:
    """Whether a Ray at 127.0.0.1:PORT listens there alone, as one that was started in `on_loopback` does.

    Ray takes such an address for that of the machine, where nothing listens then, and waits for minutes.
    """
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if host not in ("127.0.0.1", "localhost") or not port.isdigit():
        return False
    try:
        socket.create_connection((services.get_node_ip_address(), int(port)), timeout=_LISTENER_TIMEOUT_S).close()
    except OSError:
        return True
    return False


class NodeNetwork(TorchConfig):
    """Ray Train's set-up of torch, over the network that Ray itself uses."""

    @property
    def backend_cls(self) -> type["NodeNetworkBackend"]:
        """Called by Ray Train for what it is to do in its workers."""
        return NodeNetworkBackend


class NodeNetworkBackend(_TorchBackend):
    """Names the network interface to each worker before torch connects them."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Called by Ray Train when its workers run."""
        worker_group.execute(choose_interface)
        super().on_start(worker_group, backend_config)


def choose_interface() -> None:
    """Let gloo talk over the interface that has this node's address in Ray, if the environment names no other.

    Left alone it takes the address that the host's name stands for, which is loopback on many installations: then
    workers of different hosts cannot connect.
    """
    address = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(known.address == address for known in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
