"""Check of the LoRA that a run starts from, by the headers of its files and without weights of the model."""

from typing import Any

import diffusers
import torch

from srpo_ray.config.model import ModelConfig
from srpo_ray.models.continued_lora import continued_adapters
from srpo_ray.models.families import family_of
from srpo_ray.models.loading import transformer_config
from srpo_ray.models.merged_lora import merged_lora
from srpo_ray.models.trainable import add_adapters, check_trained


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
    model_class: Any = getattr(diffusers, family_of(model.path).transformer)
    with torch.device("meta"):
        transformer = model_class.from_config(transformer_config(model_class, model.path))
    merged = merged_lora(model, shapes_only=True)
    if merged:
        merged.check({name: parameter.shape for name, parameter in transformer.named_parameters()})
        return
    with torch.device("meta"):
        add_adapters(transformer, model.lora, seed=0)
    check_trained(transformer, continued_adapters(model, transformer, shapes_only=True))
