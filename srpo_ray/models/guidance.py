"""Reinforcement Learning Guidance (arXiv 2508.21016): from the base model to the tuned one, and beyond it."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from srpo_ray.config import RunConfig
from srpo_ray.models.trainable import load_tuned

Network = Callable[..., tuple[Tensor]]
"""A transformer's call: keywords in, `(velocity,)` out."""

BASE, TUNED = 0.0, 1.0
"""Weights at which one of the two models is all that is called."""


class RLGuidance:
    """A transformer whose velocity is `v_base + weight * (v_tuned - v_base)`.

    At weight 0 it is the base model and at 1 the tuned one, bit for bit and for one call. Any other weight costs
    two: between 0 and 1 the images go part of the way, above 1 they go further than the run did.
    """

    def __init__(self, tuned: Network, base: Network | None, weight: float = TUNED) -> None:
        """Join two models.

        Args:
            tuned: The tuned model.
            base: The base model; None where the weight is never anything but 1.
            weight: 0 or more; may be set anew between calls.
        """
        self.tuned = tuned
        self.base = base
        self.weight = weight

    def __call__(self, **inputs: Any) -> tuple[Tensor]:
        """The guided velocity for a transformer's keywords."""
        if self.weight == TUNED:
            return self.tuned(**inputs)
        assert self.base is not None
        if self.weight == BASE:
            return self.base(**inputs)
        (base,), (tuned,) = self.base(**inputs), self.tuned(**inputs)
        return (base.float() + self.weight * (tuned.float() - base.float()),)


def load_guided(
    config: RunConfig,
    dtype: torch.dtype,
    device: str,
    weights: Mapping[str, Tensor] | None,
    strengths: Collection[float],
) -> tuple[RLGuidance, Any]:
    """Load a run's tuned model and, where it is needed, the base model.

    A run with adapters needs no second copy: the base model is the same one with its adapters switched off.

    Args:
        config: The run.
        dtype: Data type of the weights.
        device: Where they go.
        weights: Trained weights; None if the run learned nothing.
        strengths: The guidance weights that will be asked for; they decide what is loaded.

    Returns:
        The guided network, and the transformer, for what else it knows.

    Raises:
        ValueError: As `load_tuned`.
    """
    needed = weights if any(strength != BASE for strength in strengths) else None
    tuned = load_tuned(config, dtype, device, needed).eval()
    if needed is None or all(strength == TUNED for strength in strengths):
        base = tuned if needed is None else None
    elif config.model.lora:
        base = _without_adapters(tuned)
    else:
        base = load_tuned(config, dtype, device, None).eval()
    return RLGuidance(tuned, base), tuned


def _without_adapters(transformer: Any) -> Network:
    def call(**inputs: Any) -> tuple[Tensor]:
        transformer.disable_adapters()
        try:
            return transformer(**inputs)
        finally:
            transformer.enable_adapters()

    return call
