"""Memory of one worker's share of a model under ZeRO, exact to the byte."""

from collections.abc import Sequence
from dataclasses import dataclass

from srpo_ray.config.algorithms.base import Role
from srpo_ray.config.training import TrainingConfig
from srpo_ray.config.zero import (
    KEPT_WHOLE,
    LIVE_PARAMETERS,
    PREFETCHED,
    REDUCE_BUCKET,
    SUB_GROUP,
    Stage,
    zero_stage,
)

MASTER = 4
"""Bytes of a float32, the type of master weights, moments, summed gradients, EMA and old weights."""


@dataclass(frozen=True)
class Parameter:
    """Parameter tensor of the model."""

    numel: int
    trainable: bool
    stored: int | None = None
    """Bytes of quantised weights and their scales; None for weights that are not quantised."""

    def bytes(self, element_size: int) -> int:
        """Compute the bytes of the whole parameter.

        Args:
            element_size: Bytes of an element that is not quantised.
        """
        return element_size * self.numel if self.stored is None else self.stored


@dataclass(frozen=True)
class Share:
    """Bytes of one worker's share."""

    weights: int
    """Shards of all parameters, or all parameters whole, in the data type of the forward passes."""
    whole: int
    """Small parameters, which every worker keeps whole beside the shards of stage 3."""
    master: int
    """float32 copy of the shards of the trained parameters, which DeepSpeed keeps for float32 models too."""
    moments: int
    """First and second moments of Adam."""
    gradients: int
    """Accumulated gradients: of the shards, or of all trained parameters at stage 1. With `training.offload`, those
    that the optimizer reads."""
    waiting: int
    """Accumulated gradients before they are copied to an offloaded optimizer: on the host at stage 3, and on the GPU at
    stage 2, where only models in bfloat16 have them."""
    ema: int
    """EMA of the weights."""
    old: int
    """Weights of role `old`."""
    reference: int
    """Weights of role `reference`, in the data type of the forward passes; none where adapters are switched off."""
    contrast: int
    """Weights of role `contrast`, in the data type of the forward passes."""
    bucket: int
    """Buffer in which gradients wait to be averaged over the workers."""

    @property
    def optimizer(self) -> int:
        """Bytes that `training.offload` moves to the host: the optimizer's, with copies of the master weights."""
        return self.master + self.moments + self.gradients + self.ema + self.old

    @property
    def forward_weights(self) -> int:
        """Bytes that `training.offload: weights` moves to the host too: weights of forward passes, and their copies."""
        return self.weights + self.reference + self.contrast


def share(
    parameters: Sequence[Parameter],
    training: TrainingConfig,
    element_size: int,
    roles: frozenset[Role] = frozenset(),
) -> Share:
    """Compute one worker's share of a model.

    Args:
        parameters: All parameters of the transformer, adapters included.
        training: Section `training`.
        element_size: Bytes of an element in the forward passes: 2 or 4.
        roles: Other weights than the policy's that the run keeps.
    """
    workers, stage = training.min_workers, stage_of(parameters, training)
    adapters = _adapters(parameters)
    trained = _trained_part(parameters, training)
    if stage.whole_weights:
        flat = workers * trained
        frozen = sum(parameter.bytes(element_size) for parameter in parameters if not parameter.trainable)
        weights = element_size * flat + frozen
        bucket = min(REDUCE_BUCKET, trained_elements(parameters))
    else:
        flat, bucket = trained, REDUCE_BUCKET
        weights = element_size * sum(_part(parameter, workers) for parameter in parameters)
    small = sum(parameter.numel for parameter in parameters if parameter.numel <= KEPT_WHOLE)
    return Share(
        weights=weights,
        # The shard of a single worker is the whole parameter already.
        whole=element_size * small if gathers(parameters, training) else 0,
        master=MASTER * trained,
        moments=2 * MASTER * trained,
        gradients=MASTER * (flat if stage.number == 1 and not training.offload else trained),
        waiting=MASTER * trained if _gradients_wait(training, stage, element_size) else 0,
        ema=MASTER * trained if training.ema else 0,
        old=MASTER * trained if "old" in roles else 0,
        reference=element_size * trained if "reference" in roles and not adapters else 0,
        contrast=element_size * trained if "contrast" in roles else 0,
        bucket=element_size * bucket,
    )


def stage_of(parameters: Sequence[Parameter], training: TrainingConfig) -> Stage:
    """Return the ZeRO stage of a run."""
    return zero_stage(training, adapters=_adapters(parameters))


def gathers(parameters: Sequence[Parameter], training: TrainingConfig) -> bool:
    """Return true if a call gathers weights from other workers or from the host."""
    divided = training.min_workers > 1 or training.offload == "weights"
    return divided and not stage_of(parameters, training).whole_weights


def gathered(parameters: Sequence[Parameter], training: TrainingConfig, element_size: int) -> int:
    """Compute the bytes of all sharded parameters once gathered; 0 if gathering copies nothing."""
    if not gathers(parameters, training):
        return 0
    return element_size * sum(parameter.numel for parameter in parameters if parameter.numel > KEPT_WHOLE)


def live_layers(parameters: Sequence[Parameter], training: TrainingConfig, element_size: int) -> int:
    """Compute the maximum bytes of gathered layers at a time, if layers are gathered one by one."""
    limit = element_size * (LIVE_PARAMETERS + PREFETCHED)
    return min(gathered(parameters, training, element_size), limit)


def largest_layer(parameters: Sequence[Parameter], element_size: int) -> int:
    """Compute the bytes of the largest quantised layer when it is dequantised for a computation; 0 without any."""
    return element_size * max((each.numel for each in parameters if each.stored is not None), default=0)


def update_buffers(parameters: Sequence[Parameter], training: TrainingConfig) -> int:
    """Compute the temporary bytes of an update: a flat copy of a sub-group's gradients and the root of one moment."""
    return 2 * MASTER * min(_trained_part(parameters, training), SUB_GROUP)


def trained_elements(parameters: Sequence[Parameter]) -> int:
    """Count the elements of the trained parameters."""
    return sum(parameter.numel for parameter in parameters if parameter.trainable)


def _gradients_wait(training: TrainingConfig, stage: Stage, element_size: int) -> bool:
    return training.offload is not None and (stage.number == 3 or (stage.number == 2 and element_size < MASTER))


def _adapters(parameters: Sequence[Parameter]) -> bool:
    return any(not parameter.trainable for parameter in parameters)


def _trained_part(parameters: Sequence[Parameter], training: TrainingConfig) -> int:
    """Count the elements of one worker's shards of the trained parameters, with padding."""
    workers = training.min_workers
    if stage_of(parameters, training).whole_weights:
        # All trained parameters are one flat tensor, whose shards have an even size.
        return 2 * -(-trained_elements(parameters) // (2 * workers))
    return sum(_part(parameter, workers) for parameter in parameters if parameter.trainable)


def _part(parameter: Parameter, workers: int) -> int:
    """Count the elements of one worker's shard at stage 3. All shards have one size, and the last is padded."""
    return -(-parameter.numel // workers)
