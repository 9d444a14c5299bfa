"""Checks of a run's adapters and of the LoRA that it starts from, by names and headers and without weights."""

from typing import Any

import diffusers
import torch

from srpo_ray.config.model import ModelConfig
from srpo_ray.models.continued_lora import continued_adapters
from srpo_ray.models.families import family_of
from srpo_ray.models.loading import transformer_config
from srpo_ray.models.merged_lora import merged_lora
from srpo_ray.models.trainable import add_adapters, check_targets, check_trained


def check_target_modules(model: ModelConfig) -> None:
    """Check that each entry of `model.lora.target_modules` ends the name of a linear layer of the model.

    Raises:
        ValueError: If an entry matches no layer.
    """
    if model.lora and model.lora.target_modules:
        check_targets(_without_weights(model), model.lora.target_modules)


def check_lora_start(model: ModelConfig) -> None:
    """Check that a run can start from the LoRA that `model.lora.start_from` names, if it names one.

    Args:
        model: Section `model`.

    Raises:
        ValueError: If the LoRA cannot be read, belongs to another family, or has other layers or another rank than a
            run that continues it.
    """
    if model.lora is None or model.lora.start_from is None:
        return
    transformer = _without_weights(model)
    merged = merged_lora(model, shapes_only=True)
    if merged:
        merged.check({name: parameter.shape for name, parameter in transformer.named_parameters()})
        return
    with torch.device("meta"):
        add_adapters(transformer, model.lora, seed=0)
    check_trained(transformer, continued_adapters(model, transformer, shapes_only=True))


def trained_shapes(model: ModelConfig) -> dict[str, torch.Size]:
    """Name the parameters that a run trains, without reading weights.

    Args:
        model: Section `model`.

    Returns:
        Name of the trainable parameter -> its shape.
    """
    transformer = _without_weights(model)
    if model.lora:
        with torch.device("meta"):
            add_adapters(transformer, model.lora, seed=0)
    return {name: value.shape for name, value in transformer.named_parameters() if value.requires_grad}


def _without_weights(model: ModelConfig) -> Any:
    """Build the transformer of a model on the meta device."""
    model_class: Any = getattr(diffusers, family_of(model.path).transformer)
    with torch.device("meta"):
        return model_class.from_config(transformer_config(model_class, model.path))
