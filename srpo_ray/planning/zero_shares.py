"""What one worker's share of a model takes under ZeRO-3, to the byte, and the settings of ZeRO that decide it."""

from collections.abc import Sequence
from dataclasses import dataclass

from srpo_ray.config.algorithms.base import Role
from srpo_ray.config.training import TrainingConfig
from srpo_ray.config.zero import KEPT_WHOLE, LIVE_PARAMETERS, PREFETCHED, REDUCE_BUCKET, SUB_GROUP

MASTER = 4
"""Bytes of a float32: of master weights, moments, summed gradients, the average and the old weights."""


@dataclass(frozen=True)
class Parameter:
    """One tensor of the model."""

    numel: int
    trainable: bool


@dataclass(frozen=True)
class Share:
    """Bytes of one worker."""

    weights: int
    """Its parts of all parameters, in the data type of the forward passes."""
    whole: int
    """Small parameters that every worker has whole."""
    master: int
    """float32 copy of its part of what is trained; DeepSpeed keeps one where the forward passes are in float32 too."""
    moments: int
    """Both moments of Adam."""
    gradients: int
    """Summed gradients of its part."""
    ema: int
    """EMA of the weights."""
    old: int
    """Weights of role `old`."""
    reference: int
    """Weights of role `reference`, in the data type of the forward passes; none where adapters are switched off."""
    bucket: int
    """Buffer in which gradients wait to be averaged."""

    @property
    def optimizer(self) -> int:
        """What `training.offload` moves to the host: master weights, moments and summed gradients."""
        return self.master + self.moments + self.gradients


def share(
    parameters: Sequence[Parameter],
    training: TrainingConfig,
    element_size: int,
    roles: frozenset[Role] = frozenset(),
) -> Share:
    """What one worker holds of a model.

    Args:
        parameters: All of the transformer's, adapters included.
        training: Section `training`.
        element_size: Bytes of an element in the forward passes: 2 or 4.
        roles: Other weights than the policy's that the algorithm asks.
    """
    workers = training.min_workers
    adapters = any(not parameter.trainable for parameter in parameters)
    trained = _trained_part(parameters, workers)
    small = sum(parameter.numel for parameter in parameters if parameter.numel <= KEPT_WHOLE)
    return Share(
        weights=element_size * sum(_part(parameter, workers) for parameter in parameters),
        # One worker's part is the whole already.
        whole=element_size * small if workers > 1 or training.offload == "weights" else 0,
        master=MASTER * trained,
        moments=2 * MASTER * trained,
        gradients=MASTER * trained,
        ema=MASTER * trained if training.ema else 0,
        old=MASTER * trained if "old" in roles else 0,
        reference=element_size * trained if "reference" in roles and not adapters else 0,
        bucket=element_size * REDUCE_BUCKET,
    )


def gathered(parameters: Sequence[Parameter], training: TrainingConfig, element_size: int) -> int:
    """Bytes of all parameters that are not whole on a worker anyway, made whole; 0 where nothing is copied."""
    if training.min_workers == 1 and training.offload != "weights":
        return 0
    return element_size * sum(parameter.numel for parameter in parameters if parameter.numel > KEPT_WHOLE)


def live_layers(parameters: Sequence[Parameter], training: TrainingConfig, element_size: int) -> int:
    """Most bytes of gathered layers at a time, where they are gathered one by one."""
    limit = element_size * (LIVE_PARAMETERS + PREFETCHED)
    return min(gathered(parameters, training, element_size), limit)


def update_buffers(parameters: Sequence[Parameter], training: TrainingConfig) -> int:
    """Bytes that an update needs for a time: a flat copy of a sub-group's gradients and one square root of a moment."""
    return 2 * MASTER * min(_trained_part(parameters, training.min_workers), SUB_GROUP)


def trained_elements(parameters: Sequence[Parameter]) -> int:
    """Elements that are trained."""
    return sum(parameter.numel for parameter in parameters if parameter.trainable)


def _trained_part(parameters: Sequence[Parameter], workers: int) -> int:
    return sum(_part(parameter, workers) for parameter in parameters if parameter.trainable)


def _part(parameter: Parameter, workers: int) -> int:
    """Elements of one worker's part; all parts are of one size, the last is filled up."""
    return -(-parameter.numel // workers)
