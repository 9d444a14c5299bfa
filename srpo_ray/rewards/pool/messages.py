"""What the processes of the pool say to each other; no torch here, so that the router stays small."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srpo_ray.config.rewards import Fit, PoolConfig
from srpo_ray.rewards.input_spec import InputSpec

NAMESPACE = "srpo_ray"
"""Ray namespace of the router; without one, a name would be seen by the job that made it only."""

Pixels = dict[InputSpec, NDArray[np.generic]]
"""Wire form of the images of one call, per input_spec `[B, 3, size, size]`."""


@dataclass(frozen=True)
class ModelInfo:
    """What a client must know of a model that it cannot see."""

    image_size: int
    image_gradient: bool
    fit: Fit = "crop"
    antialias: bool = True


@dataclass(frozen=True)
class PoolDescription:
    """What a client needs to use the pool."""

    config: PoolConfig
    models: dict[str, ModelInfo]
    groups: dict[str, tuple[str, ...]]
    """Names of the models that replicas of each group hold; every model is in one group."""


@dataclass(frozen=True)
class ReplicaDescription:
    """What a replica holds once it has loaded, and where."""

    start_id: str
    node_id: str
    models: dict[str, ModelInfo]


@dataclass(frozen=True)
class ReplicaHealth:
    """Answer to a ping."""

    start_id: str
    """Differs between two starts of the same replica."""
    node_id: str
    pid: int
    request_id: int | None
    """The call at work; None when idle."""
    state_s: float
    """Seconds spent so far in the call at work, or idle since the last one."""


@dataclass(frozen=True)
class Assignment:
    """Permission to send one call to one replica."""

    request_id: int
    replica: str
    start_id: str
    """Which start of the replica this is for; a report about an earlier start is stale."""
    handle: Any
    waited_s: float
    """Seconds that the call waited for a place in a replica's queue."""
    queue_depth: int
    """Calls of the same group that waited, at a replica or for a place, when this one was placed."""
    in_service: int
    """Replicas of the group that take calls."""


@dataclass(frozen=True)
class Reply:
    """Wire form of the scores of one call."""

    values: dict[str, NDArray[np.generic]]
    """Per reward `[B]` float32, unweighted."""
    gradients: dict[InputSpec, NDArray[np.generic]]
    """Per input_spec `[B, 3, size, size]`, gradient of each sample's weighted sum; empty after `measure`."""
    compute_s: float
    """Seconds of the models alone."""
