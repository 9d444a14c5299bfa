"""Training of the tiny autoencoder: 8x reduction and 16 latent channels, as in FLUX."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from srpo_ray.small_world.build.fit import Curve, Recipe, fit
from srpo_ray.small_world.renderer import render, stripe_patterns
from srpo_ray.small_world.scenes import Scenes, sample_scenes
from srpo_ray.small_world.shapes import SIZE


@dataclass(frozen=True)
class Phase:
    """Phase of the training: size and number of images per step, weights of texture in the loss, recipe."""

    size: int
    batch: int
    texture: float
    stripes: float
    recipe: Recipe


PHASES: dict[str, Phase] = {
    # Crops cover many colours and outlines per step at little cost; whole images then adapt the group norms.
    "vae_crops": Phase(32, 32, 0.0, 0.0, Recipe(steps=3500, lr=1.5e-3, seed=11)),
    "vae_whole": Phase(64, 16, 0.0, 0.0, Recipe(steps=1000, lr=1e-3, seed=12)),
    # Texture strength has little effect on the pixel error, so separate loss terms train it last.
    "vae_texture": Phase(64, 16, 3.0, 10.0, Recipe(steps=2500, lr=1e-3, seed=13)),
}
_KL_WEIGHT = 1e-4


def build_vae() -> AutoencoderKL:
    """Build the untrained autoencoder, in FLUX's layout without quantisation convolutions."""
    layout: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (16, 32, 32, 64),
        "layers_per_block": 1,
        "latent_channels": 16,
        "norm_num_groups": 8,
        "sample_size": SIZE,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }
    vae = AutoencoderKL(**layout)
    # Initial log variances are low: noise as large as the signal would hide it from the decoder.
    with torch.no_grad():
        moments: Any = vae.encoder.conv_out
        moments.bias[16:] = -4.0
    return vae


def train_vae(work: Path, scale: float) -> tuple[AutoencoderKL, Curve]:
    """Train the autoencoder on images of seen contents in both looks; return it with its training curve.

    The scaling and shift factors give scaled latents mean 0 and standard deviation 1.
    """
    torch.manual_seed(11)
    vae = build_vae()
    curve: Curve = []
    for name, phase in PHASES.items():
        loss = partial(_vae_loss, vae, phase)
        part = fit(vae, loss, phase.recipe.scaled(scale), work / f"{name}.pt")
        start = curve[-1][0] if curve else 0
        curve += [(start + step, value) for step, value in part]
    vae.eval()
    latents = encode(vae, sample_scenes(max(64, round(1024 * scale)), seed=12), raw=True)
    vae.register_to_config(
        scaling_factor=round(1 / float(latents.std()), 5), shift_factor=round(float(latents.mean()), 5)
    )
    return vae, curve


@torch.no_grad()
def encode(vae: AutoencoderKL, scenes: Scenes, raw: bool = False) -> Tensor:
    """Encode scenes to latents [n, 16, 8, 8], shifted and scaled for the transformer unless `raw`."""
    means = []
    for start in range(0, len(scenes), 256):
        images = torch.from_numpy(render(scenes[start : start + 256]))
        means.append(vae.encode(images * 2 - 1, return_dict=False)[0].mean)
    latents = torch.cat(means)
    return latents if raw else (latents - vae.config["shift_factor"]) * vae.config["scaling_factor"]


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Decode scaled latents [n, 16, 8, 8] to images [n, 3, 64, 64] in [0, 1]."""
    raw = latents / vae.config["scaling_factor"] + vae.config["shift_factor"]
    images = [vae.decode(chunk, return_dict=False)[0] for chunk in raw.split(256)]
    return (torch.cat(images) / 2 + 0.5).clamp(0, 1)


def _fast_dtype() -> torch.autocast:
    """Return a context with CPU convolutions in bfloat16 if the CPU has instructions for it, else in float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=bool(torch.cpu.get_capabilities().get("avx512_bf16")))


def _draw(phase: Phase, rng: torch.Generator) -> Tensor:
    """Draw new images or crops of them, [batch, 3, size, size] in [-1, 1], half of each look."""
    seed, half = int(torch.randint(2**31, (1,), generator=rng)), phase.batch // 2
    halves = [sample_scenes(half, seed, look="ai"), sample_scenes(half, seed + 1, look="broad")]
    images = torch.cat([torch.from_numpy(render(scenes)) for scenes in halves]) * 2 - 1
    # Corners are multiples of 8 pixels, to align with the autoencoder's cells.
    corners = 8 * torch.randint((SIZE - phase.size) // 8 + 1, (phase.batch, 2), generator=rng)
    crops = [
        image[:, y : y + phase.size, x : x + phase.size] for image, (y, x) in zip(images, corners.tolist(), strict=True)
    ]
    return torch.stack(crops)


def _vae_loss(vae: AutoencoderKL, phase: Phase, rng: torch.Generator) -> Tensor:
    images = _draw(phase, rng)
    with _fast_dtype():
        posterior = vae.encode(images, return_dict=False)[0]
        noise = torch.randn(posterior.mean.shape, generator=rng)
        latents: Any = posterior.mean + posterior.std * noise
        output = vae.decode(latents, return_dict=False)[0].float()
    divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).float().mean()
    texture = F.l1_loss(_texture(output), _texture(images))
    pixels = F.l1_loss(output, images) + F.mse_loss(output, images)
    stripes = F.l1_loss(_stripe_strength(output), _stripe_strength(images))
    return pixels + phase.texture * texture + phase.stripes * stripes + _KL_WEIGHT * divergence


def _texture(images: Tensor) -> Tensor:
    """Compute the residual of a blur over one stripe period."""
    return images - F.avg_pool2d(images, 7, 1, 3, count_include_pad=False)


def _stripe_strength(images: Tensor) -> Tensor:
    """Compute the amplitude of both stripe patterns in every cell of the autoencoder, [B, 2, H / 8, W / 8].

    Errors of outlines average out in it, so that its gradient is about the texture alone.
    """
    patterns = torch.from_numpy(stripe_patterns()[:, None, :8, :8])
    return F.conv2d(images.mean(1, keepdim=True), patterns / 32, stride=8)
