"""Adapters of another model, written as weights of the parameters that a run trains: adapters, or all of a model."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from srpo_ray.config.model import LoraConfig
from srpo_ray.models.continued_lora import DOWN, adapter_weights
from srpo_ray.models.lora_files import LoraLayer, shown
from srpo_ray.models.merged_lora import MergedLora

Shapes = Mapping[str, Sequence[int]]
"""Name of a trainable parameter -> its shape."""

AFTERWARDS = "use `srpo-ray evaluate --contrast-with` after the training"
"""Advice for another model that the workers of a run cannot hold."""


def padded_adapters(layers: Mapping[str, LoraLayer], lora: LoraConfig, shapes: Shapes) -> dict[str, Tensor]:
    """Write adapters as weights of a transformer with adapters of the same or a higher rank, in these or more layers.

    What the transformer has more is 0, and adds nothing to an output.

    Args:
        layers: Name of the transformer's layer -> adapter.
        lora: Section `model.lora` of the transformer's adapters.
        shapes: Shapes of the transformer's adapters.

    Returns:
        Name of the trainable parameter -> float32 weights.

    Raises:
        ValueError: If a layer has no adapter in the transformer, or one of a lower rank, or other inputs or outputs.
    """
    own = {name.removesuffix(DOWN) for name in shapes if name.endswith(DOWN)}
    others, ranks = sorted(set(layers) - own), {layer.rank for layer in layers.values()}
    # The command takes adapters of one rank.
    instead = f", or {AFTERWARDS}" if len(ranks) == 1 else ""
    if others:
        raise ValueError(
            f"expected adapters of the layers that model.lora.target_modules adapts, {shown(sorted(own))}, got others,"
            f" {shown(others)}; add these layers to target_modules if the model has them{instead}"
        )
    if max(ranks) > lora.rank:
        raise ValueError(
            f"expected adapters of at most model.lora.rank={lora.rank}, got rank {max(ranks)}; set"
            f" model.lora.rank={max(ranks)}{instead}"
        )
    weights = adapter_weights(layers, lora)
    return {name: _padded(name, weights.get(name), shape) for name, shape in shapes.items()}


def _padded(name: str, weights: Tensor | None, shape: Sequence[int]) -> Tensor:
    """Add zeros to a matrix up to a higher rank; None gives zeros alone."""
    if weights is None:
        return torch.zeros(*shape)
    rank, size = (0, 1) if name.endswith(DOWN) else (1, 0)
    if weights.shape[size] != shape[size]:
        raise ValueError(
            f"expected adapters of this run's model, with {name} of shape {tuple(shape)}, got {tuple(weights.shape)};"
            " choose a LoRA of this model"
        )
    more = shape[rank] - weights.shape[rank]
    return functional.pad(weights, (0, more) if rank else (0, 0, 0, more))


class LoraOnBase(Mapping[str, Tensor]):
    """All weights of a model with a LoRA added, each computed on access."""

    def __init__(self, base: Mapping[str, Tensor], lora: MergedLora) -> None:
        """Take a base model's weights and the LoRA.

        Args:
            base: Parameter name -> weights.
            lora: Adapters of some of its layers.

        Raises:
            ValueError: If the base model lacks a layer.
        """
        lora.check({name: value.shape for name, value in base.items()})
        self._base, self._lora = base, lora

    def __getitem__(self, name: str) -> Tensor:
        return self._lora.added(name, self._base[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)
