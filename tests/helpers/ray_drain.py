"""The notice of a cloud that takes a node back, as Ray is told of it."""

import importlib
import time
from typing import Any


def drain(address: str, node_id: str, seconds: float) -> None:
    """Tell the head at HOST:PORT that a node will go in so many seconds."""
    # Ray's stubs lack both.
    raylet: Any = importlib.import_module("ray._raylet")
    reasons: Any = importlib.import_module("ray.core.generated.autoscaler_pb2")
    reason = reasons.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int((time.time() + seconds) * 1000)
    accepted, message = raylet.GcsClient(address=address).drain_node(node_id, reason, "spot", deadline_ms)
    assert accepted, message
