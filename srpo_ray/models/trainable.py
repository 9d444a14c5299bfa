"""Transformer of a run with its trainable parameters: all, or LoRA adapters; base or trained weights."""

import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import peft
import torch
from torch import Tensor, nn

from srpo_ray.config import RunConfig
from srpo_ray.config.model import LoraConfig
from srpo_ray.flow import generator
from srpo_ray.models.continued_lora import continued_adapters
from srpo_ray.models.families import lora_layers
from srpo_ray.models.loading import load_transformer, load_vae
from srpo_ray.models.merged_lora import merged_lora
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.models.registry import policy_class


def model_dtype(config: RunConfig) -> torch.dtype:
    """Data type of the forward passes."""
    return torch.bfloat16 if config.model.dtype == "bfloat16" else torch.float32


def make_policy(
    config: RunConfig, network: Callable[..., tuple[Tensor]], transformer_config: Mapping[str, Any], device: str
) -> FlowPolicy:
    """Build a run's policy, the same in training, sampling and the probe of control words.

    Args:
        config: Config of the run.
        network: The transformer, or the engine that trains it.
        transformer_config: The transformer's config, as diffusers saves it.
        device: Device of the network.

    Raises:
        ValueError: If there is no VAE at `model.path`, or the model does not support `model.resolution`.
    """
    dtype = model_dtype(config)
    vae = load_vae(config.model.path, dtype, device)
    if config.model.vae_checkpointing:
        vae.enable_gradient_checkpointing()
    if config.model.vae_channels_last:
        # diffusers' own `to` has no annotation for it.
        nn.Module.to(vae, memory_format=torch.channels_last)
    return policy_class(config.model.path)(
        network,
        vae,
        transformer_config,
        resolution=config.model.size,
        dtype=dtype,
        device=device,
        truncate_sigma=config.model.truncate_sigma,
    )


def load_tuned(
    config: RunConfig, dtype: torch.dtype, device: str, weights: Mapping[str, Tensor] | None, *, quantized: bool = True
) -> Any:
    """Load a run's transformer; exactly its trainable parameters require gradient.

    Args:
        config: Config of the run.
        dtype: Data type of the weights.
        device: Device of the weights.
        weights: Trained weights of a checkpoint; None takes the weights before the first update: the base model's, or
            the adapters that `model.lora` continues.
        quantized: False loads the base model as it is, whatever `model.base` says.

    Raises:
        ValueError: If there is no transformer at `model.path`, or `model.lora` or the weights do not match it.
    """
    transformer = load_base(config, dtype, device, quantized=quantized)
    if config.model.lora:
        add_adapters(transformer, config.model.lora, config.seed)
        for parameter in (each for each in transformer.parameters() if each.requires_grad):
            # peft leaves adapters of packed weights in float32.
            parameter.data = parameter.data.to(dtype)
    if weights is None and config.model.lora and config.model.lora.continued:
        weights = continued_adapters(config.model, transformer)
    if weights is not None:
        load_trained(transformer, weights)
    return transformer


def load_base(config: RunConfig, dtype: torch.dtype, device: str = "cpu", *, quantized: bool = True) -> Any:
    """Load a run's base model: the pipeline's transformer, with the LoRA that `model.lora` merges into it.

    Args:
        config: Config of the run.
        dtype: Data type of the weights.
        device: Device of the weights.
        quantized: False loads it as it is, whatever `model.base` says.

    Raises:
        ValueError: If there is no transformer at `model.path`, or the LoRA has other layers.
    """
    base = config.model.base if quantized else None
    return load_transformer(config.model.path, dtype, device, base, merged_lora(config.model))


def start_weights(config: RunConfig, transformer: nn.Module) -> dict[str, Tensor] | None:
    """Trainable weights before the first update by parameter name, on the CPU; None for new adapters, which add 0.

    They are memory-mapped if the files have the data type of the forward passes.

    Args:
        config: Config of the run.
        transformer: Its transformer.

    Raises:
        ValueError: If there is no transformer at `model.path`, or the LoRA that the run starts from cannot be read.
    """
    if config.model.lora:
        return continued_adapters(config.model, transformer) if config.model.lora.continued else None
    return dict(load_transformer(config.model.path, model_dtype(config)).named_parameters())


def add_adapters(transformer: Any, config: LoraConfig, seed: int) -> None:
    """Freeze a transformer and add trainable LoRA adapters, whose output is zero at initialisation.

    Args:
        transformer: Transformer, changed in place.
        config: Rank and layers.
        seed: Seed of the run; it determines the initial adapters, identically on every worker and after a restart.

    Raises:
        ValueError: If an entry of `target_modules` matches the end of no linear layer's name.
    """
    targets = config.target_modules or lora_layers(type(transformer).__name__)
    check_targets(transformer, targets)
    transformer.requires_grad_(False)
    adapters = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha or config.rank, target_modules=_linear_targets(transformer, targets)
    )
    # peft initialises on the CPU, from torch's global generator.
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator(seed, "lora").get_state())
        with warnings.catch_warnings():
            # peft could not merge adapters into torchao's weights, and no run merges them.
            warnings.filterwarnings("ignore", message=".*get_apply_tensor_subclass")
            transformer.add_adapter(adapters)


def load_trained(transformer: Any, weights: Mapping[str, Tensor]) -> None:
    """Copy trained weights, one by one, into a transformer with the same trainable parameters.

    Raises:
        ValueError: If names or shapes are not those of the parameters that require gradient.
    """
    for name, parameter in check_trained(transformer, weights).items():
        parameter.data.copy_(weights[name])


def check_trained(transformer: Any, weights: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """Check that trained weights fit a transformer.

    Returns:
        Its trainable parameters by name.

    Raises:
        ValueError: If names or shapes are not those of the parameters that require gradient.
    """
    expected = {name: parameter for name, parameter in transformer.named_parameters() if parameter.requires_grad}
    if set(weights) != set(expected):
        example = min(set(weights) ^ set(expected))
        raise ValueError(
            f"expected a checkpoint with the {len(expected)} trainable weights of this model, got {len(weights)},"
            f" where {example!r} is only on one side; use the model and model.lora of that run"
        )
    for name, parameter in expected.items():
        shape = weights[name].shape
        # ZeRO-3 keeps the shape of a parameter that it has sharded.
        own = getattr(parameter, "ds_shape", parameter.shape)
        if shape != own:
            raise ValueError(
                f"expected a checkpoint with {name} of shape {tuple(own)}, got {tuple(shape)}; use"
                " the model and model.lora of that run"
            )
    return expected


def _linear_targets(transformer: nn.Module, targets: tuple[str, ...]) -> list[str]:
    """Return the targets, or whole names where an end also matches another module, as `attn.to_out` does in FLUX.2."""
    matched = {
        name: isinstance(module, nn.Linear)
        for name, module in transformer.named_modules()
        if any(name == target or name.endswith(f".{target}") for target in targets)
    }
    return list(targets) if all(matched.values()) else [name for name, linear in matched.items() if linear]


def check_targets(transformer: nn.Module, targets: tuple[str, ...]) -> None:
    """Raise ValueError for an entry of `target_modules` that matches the end of no linear layer's name."""
    linear = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            ends = sorted({re.sub(r".*blocks\.\d+\.", "", name) for name in linear if "blocks." in name})
            raise ValueError(
                f"model.lora.target_modules: expected ends of the names of linear layers, got {target!r}, which matches"
                f" none; correct or remove it (the blocks have {', '.join(ends)})"
            )
