"""Spot watcher: drains the Ray node at a cloud's preemption notice, so that a run can write a checkpoint in time.

Ray does not watch clouds. A node that is drained for preemption gets no new work, and Ray Train notifies its workers of
the deadline.
"""

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psutil

from srpo_ray.cluster.metadata import Metadata, MetadataError, Notice

_log = logging.getLogger(__name__)

ATTEMPT_TIMEOUT_S = 20.0
"""Timeout of one request to Ray's head, in seconds."""
RETRY_S = 1.0
GRACE = timedelta(seconds=60)
"""Time after the deadline during which a drain is still retried, if the node still runs."""


@dataclass(frozen=True)
class Node:
    """Ray node of this machine."""

    node_id: str
    """Id in Ray, hexadecimal."""
    gcs_address: str
    """Address of the head, `HOST:PORT`."""
    process: psutil.Process

    def is_running(self) -> bool:
        """Return True while the node runs."""
        try:
            return self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def find_node(node_id: str | None = None) -> Node:
    """Find the Ray node of this machine.

    Args:
        node_id: Id of the node in Ray; None uses the only one.

    Raises:
        ValueError: If there is none, or there are several and `node_id` is None.
    """
    nodes = {node.node_id: node for node in _nodes()}
    if node_id is not None and node_id in nodes:
        return nodes[node_id]
    if node_id is None and len(nodes) == 1:
        return next(iter(nodes.values()))
    wanted = f"the Ray node {node_id}" if node_id else "one Ray node"
    raise ValueError(
        f"--node-id: expected {wanted} on this machine, got {', '.join(sorted(nodes)) or 'none'}; run this after"
        " `ray start`, and where there are several nodes name one with --node-id"
    )


def _nodes() -> Iterator[Node]:
    for process in psutil.process_iter(["name", "cmdline"]):
        # Both are None for a process without read permission.
        if process.info["name"] != "raylet" or not process.info["cmdline"]:
            continue
        flags = dict(word.lstrip("-").split("=", 1) for word in process.info["cmdline"] if "=" in word)
        if "node_id" in flags and "gcs-address" in flags:
            yield Node(flags["node_id"], flags["gcs-address"], process)


def watch(
    metadata: Metadata,
    node: Node,
    interval_s: float,
    *,
    drain: Callable[[Node, Notice], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Notice | None:
    """Poll the metadata service until it gives notice, then drain the node once.

    A failed request is retried: the machine works without the service.

    Args:
        metadata: Metadata service.
        node: Node of this machine.
        interval_s: Seconds between two requests.
        drain: Function that drains the node; None uses `drain_node`.
        sleep: Function that waits for a number of seconds.

    Returns:
        Notice for which the node was drained; None if the node ended without a notice.

    Raises:
        ConnectionError: If Ray's head does not accept the drain in time.
    """
    answers = True
    while node.is_running():
        try:
            notice = metadata.notice()
        except MetadataError as error:
            if answers:
                _log.warning("the metadata service does not answer (%s); retrying", error)
            answers = False
        else:
            if not answers:
                _log.info("the metadata service answers again")
            answers = True
            if notice:
                _log.warning("notice: %s at %s", notice.cause, notice.deadline.isoformat(timespec="seconds"))
                (drain or drain_node)(node, notice)
                _log.warning("node %s is draining", node.node_id)
                return notice
        sleep(interval_s)
    _log.info("node %s has ended; the watcher ends", node.node_id)
    return None


def drain_node(node: Node, notice: Notice) -> None:
    """Drain the node by the notice's deadline; retry while Ray's head is unreachable.

    Raises:
        ConnectionError: If the head does not accept the drain until some time after the deadline.
    """
    failed = False
    while True:
        problem = _drain_once(node, notice)
        if problem is None:
            return
        if datetime.now(UTC) > notice.deadline + GRACE or not node.is_running():
            raise ConnectionError(
                f"expected Ray's head at {node.gcs_address} to drain node {node.node_id}, got: {problem}"
            )
        if not failed:
            _log.warning("the node could not be drained (%s); retrying", problem)
        failed = True
        time.sleep(RETRY_S)


def _drain_once(node: Node, notice: Notice) -> str | None:
    """Request the drain once; return None if Ray's head accepts it, else the reason.

    The request runs in a separate process, as Ray ends the process of a client that loses its head.
    """
    remaining = max(0, int((notice.deadline - datetime.now(UTC)).total_seconds()))
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "drain-node"),
        *("--address", node.gcs_address),
        *("--node-id", node.node_id),
        *("--reason", "DRAIN_NODE_REASON_PREEMPTION"),
        *("--reason-message", notice.cause),
        *("--deadline-remaining-seconds", str(remaining)),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ATTEMPT_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {ATTEMPT_TIMEOUT_S:g} s"
    if done.returncode == 0:
        return None
    lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"exit status {done.returncode}"
