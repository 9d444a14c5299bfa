"""Messages between the processes of the pool. No torch here, so that the router needs little memory."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srpo_ray.config.rewards import Fit, PoolConfig
from srpo_ray.rewards.input_spec import InputSpec

NAMESPACE = "srpo_ray"
"""Ray namespace of the router; without one, only the job that started it could find it by name."""

Pixels = dict[InputSpec, NDArray[np.generic]]
"""Wire form of the images of one call, per input spec `[B, 3, size, size]`."""


@dataclass(frozen=True)
class Loading:
    """Numbers of the replicas of a pool that starts."""

    placed: int
    """Replicas whose process runs, so that their resources are reserved."""
    loaded: int
    """Replicas that have loaded their models."""
    replicas: int
    """All replicas."""


@dataclass(frozen=True)
class ModelInfo:
    """Properties of a remote model that a client needs."""

    image_size: int
    image_gradient: bool
    fit: Fit = "crop"
    antialias: bool = True
    pairwise: bool = False
    """True if the model compares two images at once."""


@dataclass(frozen=True)
class PoolDescription:
    """Settings, models and groups of a pool, for its clients."""

    config: PoolConfig
    models: dict[str, ModelInfo]
    groups: dict[str, tuple[str, ...]]
    """Group name -> names of the models that its replicas load; every model is in one group."""


@dataclass(frozen=True)
class ReplicaDescription:
    """Models and node of a replica that has loaded."""

    start_id: str
    node_id: str
    models: dict[str, ModelInfo]


@dataclass(frozen=True)
class ReplicaHealth:
    """Answer to a ping."""

    start_id: str
    """Id of the replica's process; a restart changes it."""
    node_id: str
    pid: int
    request_id: int | None
    """Id of the call that the replica works on; None when idle."""
    state_s: float
    """Seconds spent on the current call so far, or idle since the last one."""


@dataclass(frozen=True)
class Assignment:
    """Request slot of one replica for one call."""

    request_id: int
    replica: str
    start_id: str
    """Id of the replica's process; a report about an earlier one is stale."""
    handle: Any
    waited_s: float
    """Seconds that the call waited for the slot."""
    queue_depth: int
    """Number of calls of the group that waited, at a replica or for a slot, when this one was assigned."""
    in_service: int
    """Number of replicas of the group that take calls."""


@dataclass(frozen=True)
class Reply:
    """Wire form of the scores or comparisons of one call."""

    values: dict[str, NDArray[np.generic]]
    """Per reward `[B]` float32, unweighted; after `compare`, one number per pair."""
    gradients: dict[InputSpec, NDArray[np.generic]]
    """Per input spec `[B, 3, size, size]`, gradient of each sample's weighted sum; only after `score`."""
    compute_s: float
    """Seconds of computation by the models."""
