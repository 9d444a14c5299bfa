"""A flow model as a policy: sampling, noise and images, the same for every family of models."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from srpo_ray.flow import euler_step
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.latents import pack, unpack


@dataclass
class Evaluations:
    """How many samples the transformer was called with: what an update costs, whatever the machine."""

    forward: int = 0
    """Without gradient."""
    forward_backward: int = 0
    """With gradient; each is back-propagated too, and costs about three times as much."""


class FlowPolicy(ABC):
    """The model that is tuned, seen as a flow policy on tokens `[B, (H/16)*(W/16), 4C]` of 2x2 latent patches.

    A family of models adds `_predict`, its transformer's call, and `text_features`; one with another autoencoder
    overrides `decode` and `encode` too.
    """

    def __init__(
        self,
        network: Callable[..., tuple[Tensor]],
        vae: AutoencoderKL,
        transformer_config: Mapping[str, Any],
        *,
        resolution: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        truncate_sigma: bool = False,
    ) -> None:
        """Wrap a transformer.

        Args:
            network: The transformer, or the engine that trains it; called with the transformer's keywords.
            vae: Frozen autoencoder.
            transformer_config: The transformer's config, as diffusers saves it.
            resolution: Height and width of the images in pixels.
            dtype: Data type of the transformer's inputs; sigmas, also those that it embeds, steps and images stay
                float32.
            device: Where the transformer and the VAE are.
            truncate_sigma: Whether the transformer gets sigmas cut to thousandths.
        """
        self.network = network
        self.vae = vae
        self.transformer_config = transformer_config
        self.dtype = dtype
        self.device = torch.device(device)
        self.truncate_sigma = truncate_sigma
        self.latent_size = resolution // 2 ** (len(vae.config["block_out_channels"]) - 1)
        self.token_shape = ((self.latent_size // 2) ** 2, vae.config["latent_channels"] * 4)
        self.empty_prompt: Conditioning | None = None
        self._evaluations = Evaluations()

    @staticmethod
    @abstractmethod
    def text_features(pipeline: Any, prompts: list[str], max_sequence_length: int) -> tuple[Tensor, Tensor]:
        """Features of every token `[B, L, D]` and pooled ones `[B, P]`, by the text encoders of a pipeline.

        Args:
            pipeline: A pipeline of diffusers without transformer and VAE.
            prompts: B prompts.
            max_sequence_length: Longest number of T5 tokens.
        """

    @abstractmethod
    def _predict(self, tokens: Tensor, sigma: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        """Call the network: velocity `[B, N, 4C]` of tokens in `dtype` at sigmas `[B]`; counts its samples."""

    def velocity(self, tokens: Tensor, sigma: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        """The transformer's estimate of `noise - clean`.

        Args:
            tokens: Noisy tokens `[B, N, 4C]`.
            sigma: Noise level of each sample `[B]`, in [0, 1].
            conditioning: Text features of the plain prompts, B of them.
            guidance_scale: Guidance, in the family's own way: an input of FLUX, a second call of SD3.

        Returns:
            Velocity `[B, N, 4C]`, float32.
        """
        seen = (sigma * 1000).floor() / 1000 if self.truncate_sigma else sigma
        seen = seen.to(self.device, torch.float32)
        return self._predict(tokens.to(self.dtype), seen, conditioning, guidance_scale).float()

    def _count(self, samples: int) -> None:
        if torch.is_grad_enabled():
            self._evaluations.forward_backward += samples
        else:
            self._evaluations.forward += samples

    def take_evaluations(self) -> Evaluations:
        """The samples that the transformer was called with since the last call of this function."""
        taken, self._evaluations = self._evaluations, Evaluations()
        return taken

    @torch.no_grad()
    def rollout(self, noise: Tensor, conditioning: Conditioning, sigmas: Tensor, guidance_scale: float) -> Tensor:
        """`integrate` without gradient: clean tokens from pure noise where `sigmas` runs from 1 to 0."""
        return self.integrate(noise, conditioning, sigmas, guidance_scale)

    def integrate(self, tokens: Tensor, conditioning: Conditioning, sigmas: Tensor, guidance_scale: float) -> Tensor:
        """Euler steps along a grid, each through the one before it; gradient flows where it is enabled.

        Args:
            tokens: Tokens at the first sigma `[B, N, 4C]`.
            conditioning: Text features, B of them.
            sigmas: Grid, noisiest first; a grid of one sigma makes no step.
            guidance_scale: See `velocity`.

        Returns:
            Tokens at the last sigma `[B, N, 4C]`, float32.
        """
        grid = sigmas.to(self.device, torch.float32)
        for sigma, sigma_next in pairwise(grid):
            here, there = sigma.expand(len(tokens)), sigma_next.expand(len(tokens))
            velocity = self.velocity(tokens, here, conditioning, guidance_scale)
            tokens = euler_step(tokens, velocity, here, there)
        return tokens

    def noise(self, generators: list[torch.Generator]) -> Tensor:
        """Standard normal tokens `[len(generators), N, 4C]`, one sample per CPU generator."""
        return torch.stack([torch.randn(self.token_shape, generator=g) for g in generators]).to(self.device)

    def decode(self, tokens: Tensor) -> Tensor:
        """Images `[B, 3, H, W]` in [0, 1], float32, with gradient where it does not clip."""
        latents = unpack(tokens, self.latent_size, self.latent_size)
        config = self.vae.config
        latents = latents / config["scaling_factor"] + config["shift_factor"]
        images = self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0]
        return (images.float() / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Tokens `[B, N, 4C]` of images `[B, 3, H, W]` in [0, 1]: the mode of the VAE's posterior."""
        config = self.vae.config
        (posterior,) = self.vae.encode((images * 2 - 1).to(self.vae.dtype), return_dict=False)
        return pack((posterior.mode().float() - config["shift_factor"]) * config["scaling_factor"])
