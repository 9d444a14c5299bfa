"""FLUX as a policy: the same loader and the same calls for the tiny pipeline and for FLUX.1-dev."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Tensor

from srpo_ray.flow import euler_step
from srpo_ray.models.latents import pack, position_ids, unpack
from srpo_ray.models.paths import resolve_path
from srpo_ray.models.text import Conditioning


def load_transformer(path: str, dtype: torch.dtype, device: str = "cpu") -> FluxTransformer2DModel:
    """Load a pipeline's transformer onto a device.

    Raises:
        ValueError: If there is no readable FLUX transformer at `path`.
    """
    try:
        # diffusers annotates `to` as if it took no device.
        module: Any = FluxTransformer2DModel.from_pretrained(
            resolve_path(path), subfolder="transformer", torch_dtype=dtype
        )
    except OSError as error:
        raise ValueError(_unreadable(path, "transformer", error)) from error
    return module.to(device)


def load_vae(path: str, dtype: torch.dtype, device: str = "cpu") -> AutoencoderKL:
    """Load a pipeline's VAE onto a device, frozen.

    Raises:
        ValueError: If there is no readable VAE at `path`.
    """
    try:
        module: Any = AutoencoderKL.from_pretrained(resolve_path(path), subfolder="vae", torch_dtype=dtype)
    except OSError as error:
        raise ValueError(_unreadable(path, "vae", error)) from error
    return module.to(device).requires_grad_(False).eval()


def takes_guidance(transformer: FluxTransformer2DModel) -> bool:
    """Whether a transformer has a guidance embedding, as FLUX.1-dev has and FLUX.1-schnell has not."""
    return bool(transformer.config["guidance_embeds"])


def _unreadable(path: str, part: str, error: OSError) -> str:
    kind = "folder" if Path(path).exists() else "folder or hub id"
    return (
        f"model.path: expected a {kind} with a FluxPipeline in the diffusers layout, got {path!r}, whose {part}"
        f" cannot be read; check the path, or for a gated hub id accept its licence and log in ({error})"
    )


class FluxPolicy:
    """The model that is tuned, seen as a flow policy on tokens `[B, (H/16)*(W/16), 64]`."""

    def __init__(
        self,
        network: Callable[..., tuple[Tensor]],
        vae: AutoencoderKL,
        *,
        resolution: int,
        guidance_embeds: bool,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        truncate_sigma: bool = False,
    ) -> None:
        """Wrap a transformer.

        Args:
            network: The transformer, or the engine that trains it; called with FLUX's keywords.
            vae: Frozen autoencoder.
            resolution: Height and width of the pictures in pixels.
            guidance_embeds: Whether the transformer takes a guidance embedding.
            dtype: Data type of the transformer's inputs; sigmas, steps and pictures stay float32.
            device: Where the transformer and the VAE are.
            truncate_sigma: Whether the transformer gets sigmas cut to thousandths.
        """
        self.network = network
        self.vae = vae
        self.dtype = dtype
        self.device = torch.device(device)
        self.guidance_embeds = guidance_embeds
        self.truncate_sigma = truncate_sigma
        self.latent_size = resolution // 2 ** (len(vae.config["block_out_channels"]) - 1)
        self.token_shape = ((self.latent_size // 2) ** 2, vae.config["latent_channels"] * 4)
        self._position_ids = position_ids(self.latent_size, self.latent_size, self.device)

    def velocity(self, tokens: Tensor, sigma: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        """The transformer's estimate of `noise - clean`.

        Args:
            tokens: Noisy tokens `[B, N, 64]`.
            sigma: Noise level of each sample `[B]`; the transformer multiplies it by 1000 itself.
            conditioning: Text features of the plain prompts, B of them.
            guidance_scale: Value of the guidance embedding.

        Returns:
            Velocity `[B, N, 64]`, float32.
        """
        batch = len(tokens)
        text_ids = torch.zeros(conditioning.prompt_embeds.shape[1], 3, device=self.device)
        guidance = torch.full((batch,), guidance_scale, device=self.device) if self.guidance_embeds else None
        seen = (sigma * 1000).floor() / 1000 if self.truncate_sigma else sigma
        (velocity,) = self.network(
            hidden_states=tokens.to(self.dtype),
            timestep=seen.to(self.device, torch.float32),
            guidance=guidance,
            pooled_projections=conditioning.pooled_prompt_embeds,
            encoder_hidden_states=conditioning.prompt_embeds,
            txt_ids=text_ids,
            img_ids=self._position_ids,
            return_dict=False,
        )
        return velocity.float()

    @torch.no_grad()
    def rollout(self, noise: Tensor, conditioning: Conditioning, sigmas: Tensor, guidance_scale: float) -> Tensor:
        """Sample clean tokens by Euler steps, without gradient.

        Args:
            noise: Tokens of pure noise `[B, N, 64]`.
            conditioning: Text features, B of them.
            sigmas: Grid `[num_steps + 1]` from 1 to 0.
            guidance_scale: Value of the guidance embedding.

        Returns:
            Clean tokens `[B, N, 64]`, float32.
        """
        tokens = noise
        grid = sigmas.to(self.device, torch.float32)
        for sigma, sigma_next in pairwise(grid):
            here, there = sigma.expand(len(tokens)), sigma_next.expand(len(tokens))
            velocity = self.velocity(tokens, here, conditioning, guidance_scale)
            tokens = euler_step(tokens, velocity, here, there)
        return tokens

    def noise(self, generators: list[torch.Generator]) -> Tensor:
        """Standard normal tokens `[len(generators), N, 64]`, one sample per CPU generator."""
        return torch.stack([torch.randn(self.token_shape, generator=g) for g in generators]).to(self.device)

    def decode(self, tokens: Tensor) -> Tensor:
        """Pictures `[B, 3, H, W]` in [0, 1], float32, with gradient where it does not clip."""
        latents = unpack(tokens, self.latent_size, self.latent_size)
        config = self.vae.config
        latents = latents / config["scaling_factor"] + config["shift_factor"]
        images = self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0]
        return (images.float() / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Tokens `[B, N, 64]` of pictures `[B, 3, H, W]` in [0, 1]: the mode of the VAE's posterior."""
        config = self.vae.config
        (posterior,) = self.vae.encode((images * 2 - 1).to(self.vae.dtype), return_dict=False)
        return pack((posterior.mode().float() - config["shift_factor"]) * config["scaling_factor"])
