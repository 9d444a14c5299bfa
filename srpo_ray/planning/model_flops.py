"""FLOPs that an update's images require of the model, whatever a run recomputes or repeats."""

from dataclasses import astuple, dataclass

from srpo_ray.config import RunConfig
from srpo_ray.planning.cost import decoder_cost, transformer_cost
from srpo_ray.planning.trace import Cost

_REWARD_SIZE = 224
"""Input size of a reward in pixels. The decoder's FLOPs do not depend on it, because a resize counts none."""


@dataclass(frozen=True)
class ModelFlops:
    """FLOPs of one image in each computation, without recomputation; a multiplication and addition count as two."""

    forward: float
    """Transformer call without gradient."""
    forward_backward: float
    """Transformer call with gradient, and its backward pass."""
    decode: float
    """VAE decoder, with its backward pass if the gradient passes through it."""


def model_flops(config: RunConfig) -> ModelFlops:
    """Compute the FLOPs of one image of a run; of several sizes of images, their mean.

    Activation checkpointing is left out: it changes the FLOPs that are executed, not those that the method requires.

    Args:
        config: The run.
    """
    found = [_of_one_size(each) for each in config.at_sizes]
    return ModelFlops(*(sum(values) / len(found) for values in zip(*map(astuple, found), strict=True)))


def _of_one_size(config: RunConfig) -> ModelFlops:
    model = config.model.model_copy(update={"gradient_checkpointing": False, "vae_checkpointing": False})
    gpu = config.training.num_gpus > 0
    decodes = config.algorithm.calls(config.rollout.num_steps).decodes
    # The FLOPs of a forward pass do not depend on the gradient, and each trace delays the start of a run.
    call = transformer_cost(model, 1, gradient=True, gpu=gpu)
    return ModelFlops(
        forward=call.forward_flops,
        forward_backward=_both(call),
        decode=_both(decoder_cost(model, 1, (_REWARD_SIZE,), gradient=decodes, gpu=gpu)),
    )


def _both(cost: Cost) -> float:
    return cost.forward_flops + cost.backward_flops
