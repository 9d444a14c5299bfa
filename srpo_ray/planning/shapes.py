"""Shapes of a pipeline's parts: modules built from their configs on the meta device, without weights."""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from srpo_ray.config.model import ModelConfig
from srpo_ray.models.families import FAMILIES, Family
from srpo_ray.models.paths import resolve_path
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.models.quantized import quantized_layers, stored_bytes
from srpo_ray.models.registry import POLICIES
from srpo_ray.models.rollout_base import copied_layers, copy_bytes
from srpo_ray.models.tiny_decoder import decoder_config
from srpo_ray.models.trainable import add_adapters
from srpo_ray.planning.cached import cached, only
from srpo_ray.planning.published import PIPELINES
from srpo_ray.planning.zero_shares import Parameter

DEPTHS = ("num_layers", "num_single_layers", "n_layers", "n_refiner_layers")
"""Keys of a transformer's config with a number of equal layers. A model may lack any of them."""
SECOND_ATTENTION = "dual_attention_layers"
"""Key of a transformer's config with the indices of the layers that have a second attention."""
Layers = Mapping[str, Any]
"""Values of a transformer's config that decide its layers."""
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


def dtype_of(model: ModelConfig) -> torch.dtype:
    """Return the data type of the forward passes."""
    return torch.bfloat16 if model.dtype == "bfloat16" else torch.float32


@cached
def part_config(path: str, part: str) -> dict[str, Any]:
    """Read the `config.json` of a pipeline's part: from a folder, from the well-known models, or from the hub.

    Args:
        path: Folder or hub id of the pipeline, or `small_world`.
        part: `transformer`, `vae` or one of `TEXT_ENCODERS`.

    Raises:
        ValueError: If there is no such config.
    """
    folder = Path(resolve_path(path))
    try:
        if folder.is_dir():
            return json.loads((folder / part / "config.json").read_text())
        if path in PIPELINES:
            return PIPELINES[path][part]
        from huggingface_hub import hf_hub_download

        return json.loads(Path(hf_hub_download(path, f"{part}/config.json")).read_text())
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"model.path: expected a folder or hub id with {part}/config.json, got {path!r} ({error}); check it and the"
            f" network, log in for a gated model, or plan with one that is known here ({', '.join(PIPELINES)})"
        ) from error


def build_transformer(model: ModelConfig, layers: Layers | None = None) -> nn.Module:
    """Build a run's transformer on the meta device. Exactly the trained parameters require gradients.

    Args:
        model: Section `model`.
        layers: Values in place of those in the config. None builds all layers.

    Raises:
        ValueError: If its config cannot be found, or `model.lora` does not match the model.
    """
    config = {**part_config(model.path, "transformer"), **(layers or {})}
    with torch.device("meta"):
        transformer = _diffusers_class(config).from_config(config)
        if model.lora:
            add_adapters(transformer, model.lora, seed=0)
    # diffusers' own `to` warns about the modules that a pretrained model keeps in float32.
    nn.Module.to(transformer, dtype_of(model))
    transformer.train()
    if model.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    return transformer


def build_vae(model: ModelConfig) -> Any:
    """Build a run's frozen VAE on the meta device."""
    config = part_config(model.path, "vae")
    with torch.device("meta"):
        vae = _diffusers_class(config).from_config(config)
    if model.vae_checkpointing:
        vae.enable_gradient_checkpointing()
    return nn.Module.to(vae, dtype_of(model)).requires_grad_(False).eval()


def build_decoder(model: ModelConfig) -> Any:
    """Build a run's tiny decoder on the meta device; None if it has none."""
    if not model.decoder:
        return None
    config = decoder_config(model.decoder)
    with torch.device("meta"):
        decoder = _diffusers_class(config).from_config(config)
    if model.vae_checkpointing:
        decoder.enable_gradient_checkpointing()
    return nn.Module.to(decoder, dtype_of(model)).requires_grad_(False).eval()


def build_policy(model: ModelConfig, layers: Layers | None = None) -> FlowPolicy:
    """Build a run's policy on the meta device."""
    transformer: Any = build_transformer(model, layers)
    policy = POLICIES[planned_family(model).pipeline](
        transformer,
        build_vae(model),
        transformer.config,
        resolution=model.size,
        dtype=dtype_of(model),
        device="meta",
    )
    policy.training_decoder = build_decoder(model)
    return policy


def planned_family(model: ModelConfig) -> Family:
    """Find the family of a run's model by its transformer class.

    The `model_index.json` of a hub id may not be available without a download. Of the families with the same class, as
    FLUX.2 klein and dev, it is the one whose guidance is classifier-free exactly if the transformer has no such input.

    Raises:
        ValueError: If there is no adapter for its family.
    """
    config = part_config(model.path, "transformer")
    name, families = config["_class_name"], list(FAMILIES.values())
    found = [family for family in families if family.transformer == name]
    if not found:
        classes = dict.fromkeys(family.transformer for family in families)
        raise ValueError(
            f"model.path: expected a transformer of class {' or '.join(classes)}, got {name} in {model.path}; choose"
            " another model, or add an adapter for its family (docs/models.md)"
        )
    guided = config.get("guidance_embeds", True)
    return next((family for family in found if family.classifier_free != guided), found[0])


def depths(model: ModelConfig) -> dict[str, int]:
    """Read the numbers of equal layers of a run's transformer, by their key in its config."""
    config = part_config(model.path, "transformer")
    return {key: config[key] for key in DEPTHS if key in config}


def layers_with_second_attention(model: ModelConfig) -> int:
    """Count the layers of a run's transformer that have a second attention; they are the first ones."""
    return len(part_config(model.path, "transformer").get(SECOND_ATTENTION, ()))


def parameters(model: ModelConfig) -> tuple[Parameter, ...]:
    """List all parameters of a run's transformer, adapters included."""
    return _parameters(only(model, "path", "lora", "base"))


@cached
def _parameters(model: ModelConfig) -> tuple[Parameter, ...]:
    transformer = build_transformer(model)
    layers = quantized_layers(transformer, planned_family(model).blocks) if model.base else set()
    quantized = {f"{layer}.weight" for layer in layers}

    def stored(name: str, parameter: nn.Parameter) -> int | None:
        if not model.base or parameter.requires_grad or name not in quantized:
            return None
        return stored_bytes(model.base, parameter.shape)

    return tuple(
        Parameter(parameter.numel(), parameter.requires_grad, stored(name, parameter))
        for name, parameter in transformer.named_parameters()
    )


def rollout_base_bytes(model: ModelConfig) -> int:
    """Compute the bytes of the copies of frozen layers that `rollout.base` makes; both types take the same."""
    return _rollout_base_bytes(only(model, "path", "lora"))


@cached
def _rollout_base_bytes(model: ModelConfig) -> int:
    blocks = planned_family(model).blocks
    modules = [module for module in build_transformer(model).modules() if type(module).__name__ in blocks]
    return sum(copy_bytes(layer.weight.shape) for block in modules for layer in copied_layers(block))


@cached
def vae_bytes(model: ModelConfig) -> int:
    """Compute the bytes of a run's VAE, and of its tiny decoder besides."""
    decoder = build_decoder(model)
    return _bytes(build_vae(model)) + (_bytes(decoder) if decoder else 0)


@cached
def text_encoder_bytes(model: ModelConfig) -> int:
    """Compute the bytes of all text encoders of a run's pipeline, in the data type of their forward passes."""
    folder, total = Path(resolve_path(model.path)), 0
    usual = TEXT_ENCODERS[: min(2, planned_family(model).text_encoders)]
    for part in TEXT_ENCODERS:
        known = (folder / part).is_dir() if folder.is_dir() else part in PIPELINES.get(model.path, usual)
        if known:
            total += _bytes(_build_text_encoder(part_config(model.path, part)), dtype_of(model).itemsize)
    return total


def _build_text_encoder(config: dict[str, Any]) -> nn.Module:
    transformers = importlib.import_module("transformers")
    kind = getattr(transformers, config["architectures"][0])
    with torch.device("meta"):
        return kind(kind.config_class(**config))


def _diffusers_class(config: Mapping[str, Any]) -> Any:
    return getattr(importlib.import_module("diffusers"), config["_class_name"])


def _bytes(module: nn.Module, element_size: int | None = None) -> int:
    """Compute the bytes of a module's parameters, in their own data type or in elements of a given size."""
    return sum(value.numel() * (element_size or value.element_size()) for value in module.parameters())
