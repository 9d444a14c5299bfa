"""The Ray that a command uses: a cluster's, or one of its own that listens on loopback alone."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import ray
from ray._private import services

from srpo_ray.launch.local_ray import on_loopback, shorten_temporary_folder, start_local_ray

LISTENER_TIMEOUT_S = 10.0
"""Longest wait for an answer of the cluster's address."""


@contextmanager
def ray_session(address: str | None) -> Iterator[None]:
    """Use the Ray cluster at `address` or in `RAY_ADDRESS`, or start a local one for the block.

    Raises:
        ValueError: If there is no cluster at the address, or Ray's temporary folder cannot be used.
        RunFailedError: If a local Ray does not start in time.
    """
    if ray.is_initialized():
        yield
        return
    shorten_temporary_folder()
    address = address or os.environ.get("RAY_ADDRESS")
    # Train's controller looks after its workers this often; at its default of 2 s each report waits for it.
    environment = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "TOKENIZERS_PARALLELISM": "false"}
    try:
        if address == "auto":
            # HOST:PORT, so that what follows can tell where that Ray listens.
            address = services.get_ray_address_from_environment("auto", None)
        if address:
            _require_listener(address)
            # A Ray that listens on loopback knows its only node by that address.
            with on_loopback() if is_only_on_loopback(address) else nullcontext():
                ray.init(address=address, runtime_env={"env_vars": environment}, log_to_driver=False)
        else:
            os.environ.setdefault("RAY_AUTH_MODE", "disabled")
            # One more process per run; the machine that one sits at sends no notice of preemption.
            environment["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
            start_local_ray(environment)
    except ConnectionError as error:
        raise ValueError(
            f"expected a running Ray cluster at {address!r}, got none ({error}); start it with `ray up` or"
            " `ray start --head`, or leave out the address to start a local one"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """See whether anything answers at HOST:PORT; Ray itself would try for many minutes.

    Raises:
        ConnectionError: If nothing does.
    """
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if port.isdigit():
        try:
            # An IPv6 address stands in brackets.
            socket.create_connection((host.strip("[]"), int(port)), timeout=LISTENER_TIMEOUT_S).close()
        except OSError as error:
            raise ConnectionError(str(error)) from error


def is_only_on_loopback(address: str) -> bool:
    """Whether a Ray at 127.0.0.1:PORT listens there alone, as one that was started in `on_loopback` does.

    Ray takes such an address for that of the machine, where nothing listens then, and waits for minutes.
    """
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if host not in ("127.0.0.1", "localhost") or not port.isdigit():
        return False
    try:
        socket.create_connection((services.get_node_ip_address(), int(port)), timeout=LISTENER_TIMEOUT_S).close()
    except OSError:
        return True
    return False
