"""Conversion between latents `[B, 16, h, w]` and tokens `[B, (h/2)*(w/2), 64]` of 2x2 latent patches."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def vae_shape(config: Mapping[str, Any]) -> tuple[int, int]:
    """Read the size of a latent in pixels per side, and the number of latent channels, from an autoencoder's config."""
    if "z_dim" in config:
        return 2 ** len(config["temperal_downsample"]), config["z_dim"]
    return 2 ** (len(config["block_out_channels"]) - 1), config["latent_channels"]


def channel_statistics(config: Mapping[str, Any], device: torch.device) -> tuple[Tensor, Tensor]:
    """Read mean and standard deviation of each latent channel `[C, 1, 1]`, float32, from an autoencoder's config."""
    values = [torch.tensor(config[key], device=device) for key in ("latents_mean", "latents_std")]
    mean, deviation = (value.float().view(-1, 1, 1) for value in values)
    return mean, deviation


def pack(latents: Tensor) -> Tensor:
    """Fold 2x2 patches into channels: `[B, C, h, w]` to tokens `[B, (h/2)*(w/2), 4C]`."""
    batch, channels, height, width = latents.shape
    patches = latents.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, height * width // 4, channels * 4)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Invert `pack` for latents of `height` x `width`."""
    batch, _, channels = tokens.shape
    patches = tokens.reshape(batch, height // 2, width // 2, channels // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, height, width)


def position_ids(height: int, width: int, device: torch.device | str | None = None) -> Tensor:
    """Compute FLUX's image position ids `[(h/2)*(w/2), 3]` of latents `height` x `width`: 0, row, column."""
    rows = torch.arange(height // 2, device=device, dtype=torch.float32)
    columns = torch.arange(width // 2, device=device, dtype=torch.float32)
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).reshape(-1, 3)
