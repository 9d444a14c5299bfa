"""Network interface of a training process."""

import os

import psutil
import ray


def choose_interface() -> None:
    """Make gloo use the interface with this node's address in Ray, unless the environment names an interface.

    By default gloo uses the address that the host name resolves to. On many installations that is loopback, and workers
    on different hosts cannot connect.
    """
    address = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(known.address == address for known in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
