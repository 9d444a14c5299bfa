"""Reinforcement Learning Guidance (arXiv 2508.21016): interpolation and extrapolation from base to tuned model."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from srpo_ray.config import RunConfig
from srpo_ray.models.trainable import load_tuned

Network = Callable[..., tuple[Tensor]]
"""Function that maps a transformer's keywords to `(velocity,)`."""

BASE, TUNED = 0.0, 1.0
"""Weights at which only one of the two models is called."""


class RLGuidance:
    """Transformer with the velocity `v_base + weight * (v_tuned - v_base)`.

    Weight 0 gives the base model and 1 the tuned one, bit for bit and at the cost of one call. Any other weight costs
    two calls: values between 0 and 1 interpolate between the models, values above 1 extrapolate beyond the tuned one.
    """

    def __init__(self, tuned: Network, base: Network | None, weight: float = TUNED) -> None:
        """Combine two models.

        Args:
            tuned: The tuned model.
            base: The base model; None if the weight is always 1.
            weight: Guidance weight, at least 0; may be changed between calls.
        """
        self.tuned = tuned
        self.base = base
        self.weight = weight

    def __call__(self, **inputs: Any) -> tuple[Tensor]:
        """Compute the guided velocity for a transformer's keywords."""
        if self.weight == TUNED:
            return self.tuned(**inputs)
        assert self.base is not None
        if self.weight == BASE:
            return self.base(**inputs)
        base, tuned = (_stacked(network(**inputs)[0]) for network in (self.base, self.tuned))
        return (base.float() + self.weight * (tuned.float() - base.float()),)


def _stacked(output: Tensor | list[Tensor]) -> Tensor:
    """Stack the outputs of a transformer that returns a list of one tensor for each sample, as Z-Image's does."""
    return torch.stack(output) if isinstance(output, list) else output


def load_guided(
    config: RunConfig,
    dtype: torch.dtype,
    device: str,
    weights: Mapping[str, Tensor] | None,
    strengths: Collection[float],
) -> tuple[RLGuidance, Any]:
    """Load a run's tuned model and, if needed, the base model.

    A LoRA run needs no second copy: the base model is the same model with disabled adapters. A run that continues a
    LoRA has adapters before its first update too.

    Args:
        config: Config of the run.
        dtype: Data type of the weights.
        device: Device of the weights.
        weights: Trained weights; None for those before the first update.
        strengths: Guidance weights that will be used; they determine which models are loaded.

    Returns:
        The guided network, and the transformer, for access to its config.

    Raises:
        ValueError: As `load_tuned`.
    """
    needed = weights if any(strength != BASE for strength in strengths) else None
    tuned = load_tuned(config, dtype, device, needed).eval()
    lora = config.model.lora
    if needed is None and not (lora and lora.continued):
        base = tuned
    elif all(strength == TUNED for strength in strengths):
        base = None
    elif lora:
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
