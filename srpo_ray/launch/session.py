"""Ray session of a command: on a given cluster, or on a local Ray that listens on loopback only."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import ray
from ray._private import services

from srpo_ray.launch.local_ray import on_loopback, shorten_temporary_folder, start_local_ray

NICENESS = "RAY_worker_niceness"
"""Environment variable of Ray: nice value of its workers."""

LISTENER_TIMEOUT_S = 10.0
"""Timeout of a connection to the cluster's address."""


@contextmanager
def ray_session(address: str | None, workers: str | None = None) -> Iterator[None]:
    """Connect to the Ray cluster at `address` or in `RAY_ADDRESS`, or start a local Ray for the block.

    Args:
        address: Address of the cluster; None uses `RAY_ADDRESS` or starts a local Ray.
        workers: Command that starts the workers of a local Ray, see `forked_workers`; None lets Ray start them.

    Raises:
        ValueError: If no cluster answers at the address, or Ray's temporary folder cannot be used.
        RunFailedError: If a local Ray does not start in time.
    """
    if ray.is_initialized():
        yield
        return
    shorten_temporary_folder()
    address = address or os.environ.get("RAY_ADDRESS")
    # Interval of the Train controller's health checks; each report waits for one, and the default is 2 s.
    environment = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "TOKENIZERS_PARALLELISM": "false"}
    try:
        if address == "auto":
            # Resolve to HOST:PORT, so that the checks below see the address that Ray listens on.
            address = services.get_ray_address_from_environment("auto", None)
        if address:
            _require_listener(address)
            # A Ray that listens on loopback has its only node registered under that address.
            with on_loopback() if is_only_on_loopback(address) else nullcontext():
                ray.init(address=address, runtime_env={"env_vars": environment}, log_to_driver=False)
        else:
            os.environ.setdefault("RAY_AUTH_MODE", "disabled")
            # The watcher is one more process per run, and a local machine announces no preemption.
            environment["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
            # By default workers have the nice value 15. Beside a busy process with 0 they get 3 % of a core, so a
            # reward replica would load for minutes.
            environment[NICENESS] = os.environ.get(NICENESS, "0")
            start_local_ray(environment, workers)
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
    """Check that something listens at HOST:PORT; Ray itself would retry for many minutes.

    Raises:
        ConnectionError: If nothing listens there.
    """
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if port.isdigit():
        try:
            # IPv6 addresses have brackets.
            socket.create_connection((host.strip("[]"), int(port)), timeout=LISTENER_TIMEOUT_S).close()
        except OSError as error:
            raise ConnectionError(str(error)) from error


def is_only_on_loopback(address: str) -> bool:
    """Return True if a Ray at 127.0.0.1:PORT listens on loopback only, as after a start in `on_loopback`.

    Ray replaces a loopback address by the machine's. If nothing listens there, Ray waits for minutes.
    """
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if host not in ("127.0.0.1", "localhost") or not port.isdigit():
        return False
    try:
        socket.create_connection((services.get_node_ip_address(), int(port)), timeout=LISTENER_TIMEOUT_S).close()
    except OSError:
        return True
    return False
