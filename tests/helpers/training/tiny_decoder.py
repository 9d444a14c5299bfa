"""Random tiny autoencoder for the latents of the small world."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny

from srpo_ray.planning.shapes import part_config

VAE = part_config("small_world", "vae")


def save_tiny(folder: Path, channels: int = VAE["latent_channels"], **changes: Any) -> AutoencoderTiny:
    """Save a random tiny autoencoder with latents of the small world's size."""
    torch.manual_seed(0)
    scales = len(VAE["block_out_channels"])
    tiny = AutoencoderTiny(
        latent_channels=channels,
        encoder_block_out_channels=(8,) * scales,
        decoder_block_out_channels=(8,) * scales,
        num_encoder_blocks=(1,) * scales,
        num_decoder_blocks=(1,) * scales,
        **changes,
    )
    tiny.save_pretrained(folder)
    return tiny
