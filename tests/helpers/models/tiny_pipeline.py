"""A folder in the layout of a FLUX pipeline, with a transformer of a few thousand weights and nothing else."""

from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel

from srpo_ray.config.model import LoraConfig
from srpo_ray.models.quantized import dequantized
from srpo_ray.models.trainable import add_adapters
from tests.helpers.training.tiny_flux import tiny_transformer

LORA = LoraConfig(rank=2)


def save_tiny_flux(folder: Path) -> str:
    """Save a transformer with random weights, and return the folder as `model.path`."""
    tiny_transformer().save_pretrained(folder / "transformer")
    (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    return str(folder)


def with_adapters(network: Any) -> Any:
    add_adapters(network, LORA, seed=3)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                source = torch.Generator().manual_seed(parameter.numel())
                parameter.copy_(torch.randn(parameter.shape, generator=source))
    return network.train()


def plain_copy(network: Any) -> FluxTransformer2DModel:
    """The same model in plain torch, with the dequantised weights."""
    copy = tiny_transformer()
    with torch.no_grad():
        for name, parameter in copy.named_parameters():
            layer, _, leaf = name.rpartition(".")
            module = network.get_submodule(layer)
            parameter.copy_(dequantized(module) if leaf == "weight" else getattr(module, leaf))
    return copy
