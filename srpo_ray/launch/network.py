"""Which address the workers of a run use: the one that Ray knows their node by."""

import os
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend


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
