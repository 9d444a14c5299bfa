"""Network interface of the trainer workers: the interface of their node's address in Ray."""

import os
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend


class NodeNetwork(TorchConfig):
    """Ray Train's config of torch.distributed, over the network that Ray uses."""

    @property
    def backend_cls(self) -> type["NodeNetworkBackend"]:
        """Backend class that Ray Train instantiates."""
        return NodeNetworkBackend


class NodeNetworkBackend(_TorchBackend):
    """Backend that selects the network interface on each worker before torch connects the workers."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Select the interface. Ray Train calls this when its workers run."""
        worker_group.execute(choose_interface)
        super().on_start(worker_group, backend_config)


def choose_interface() -> None:
    """Make gloo use the interface with this node's address in Ray, unless the environment names an interface.

    By default gloo uses the address that the host name resolves to. On many installations that is loopback, and workers
    on different hosts cannot connect.
    """
    address = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(known.address == address for known in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
