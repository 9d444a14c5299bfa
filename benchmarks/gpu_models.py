"""Models of the GPU day: FLUX.1-dev at full size with random weights, or the small world's FLUX on a CPU."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gpu_measure import DEVICE, GPU
from torch import Tensor, nn
from torch import distributed as dist

from srpo_ray.config.model import LoraConfig, ModelConfig
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.flux import FluxPolicy
from srpo_ray.models.loading import load_transformer, load_vae
from srpo_ray.models.trainable import add_adapters
from srpo_ray.planning.shapes import build_transformer, build_vae, dtype_of, part_config

GUIDANCE_SCALE = 3.5
SIGMA = 0.9


@dataclass(frozen=True)
class Setting:
    """Sizes of a GPU day."""

    px: int = 720
    """Resolution in pixels."""
    rank: int = 32
    """Rank of the adapters."""
    tiny: bool = False
    """True for the small world's model on a CPU, with fewer rounds."""
    config: tuple[str, ...] = ()
    """Config files and overrides of a run with real weights; empty without them."""
    out: Path = Path("gpu_day")
    """Folder of the results."""

    @property
    def rounds(self) -> int:
        """Counted rounds of each measurement."""
        return 1 if self.tiny else 5

    def model(self, **changes: Any) -> ModelConfig:
        """Section `model` of the measured model, without checkpointing unless `changes` ask for it."""
        fixed = {"gradient_checkpointing": False, "vae_checkpointing": False, **changes}
        if self.tiny:
            return ModelConfig(path="small_world", dtype="float32", resolution=64, max_sequence_length=16, **fixed)
        flux = "black-forest-labs/FLUX.1-dev"
        return ModelConfig(path=flux, dtype="bfloat16", resolution=self.px, max_sequence_length=512, **fixed)

    def lora(self) -> LoraConfig:
        """Adapters of the measured model."""
        return LoraConfig(rank=4 if self.tiny else self.rank)


def make_transformer(model: ModelConfig) -> Any:
    """Transformer on the device, in training mode."""
    if model.path == "small_world":
        transformer = load_transformer(model.path, dtype_of(model), DEVICE)
        if model.lora:
            add_adapters(transformer, model.lora, seed=0)
        if model.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        return transformer.train()
    return random_weights(build_transformer(model))


def make_policy(model: ModelConfig, network: Any) -> FluxPolicy:
    """Policy of a transformer, or of an engine that trains it."""
    if model.path == "small_world":
        vae = load_vae(model.path, dtype_of(model), DEVICE)
        if model.vae_checkpointing:
            vae.enable_gradient_checkpointing()
    else:
        vae = random_weights(build_vae(model))
    if model.vae_channels_last:
        nn.Module.to(vae, memory_format=torch.channels_last)
    config = part_config(model.path, "transformer")
    return FluxPolicy(network, vae, config, resolution=model.size, dtype=dtype_of(model), device=DEVICE)


def random_weights(module: nn.Module) -> Any:
    """Put a module of the meta device onto the device, with random weights."""
    module.to_empty(device=DEVICE)
    for parameter in module.parameters():
        # Vectors are biases and factors of norms.
        nn.init.normal_(parameter.data, std=0.02) if parameter.ndim > 1 else nn.init.ones_(parameter.data)
    return module


def inputs(model: ModelConfig, policy: FluxPolicy) -> tuple[Tensor, Tensor, Conditioning, float]:
    """Arguments of `policy.velocity` for one image."""
    config, dtype = part_config(model.path, "transformer"), dtype_of(model)
    text = torch.randn(1, model.max_sequence_length, config["joint_attention_dim"], dtype=dtype, device=DEVICE)
    pooled = torch.randn(1, config["pooled_projection_dim"], dtype=dtype, device=DEVICE)
    tokens = torch.randn(1, *policy.token_shape, device=DEVICE)
    return tokens, torch.full((1,), SIGMA, device=DEVICE), Conditioning(text, pooled), GUIDANCE_SCALE


def ensure_process_group() -> None:
    """Start a group of one process, which DeepSpeed needs, unless this process has one."""
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    if not dist.is_initialized():
        dist.init_process_group("nccl" if GPU else "gloo", store=dist.HashStore(), rank=0, world_size=1)
