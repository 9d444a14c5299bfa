"""Base class of flow policies: sampling, noise, decoding and encoding, independent of the model family."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from srpo_ray.config.size import ImageSize
from srpo_ray.flow import euler_step
from srpo_ray.models.block_cache import BlockCache
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.contrast import Contrast
from srpo_ray.models.latents import pack, position_ids, unpack, vae_shape
from srpo_ray.models.rollout_base import RolloutBase


@dataclass
class Evaluations:
    """Number of samples in calls of the transformer: a hardware-independent cost of an update."""

    forward: float = 0
    """Number of samples without gradient. A call that skips blocks counts as the share of the blocks that it runs."""
    forward_backward: int = 0
    """Number of samples with gradient; each has a backward pass too, and costs about three times as much."""


class FlowPolicy(ABC):
    """Flow policy of the tuned model on tokens `[B, (H/16)*(W/16), 4C]` of 2x2 latent patches.

    A model family implements `_predict`, the call of its transformer, and `text_features`; a family with another
    autoencoder also overrides `_decode` and `encode`, and one with other tokens `token_shape`.
    """

    block_lists: ClassVar[tuple[str, ...]] = ()
    """Names of the transformer's lists of blocks, in the order of their calls, for families whose blocks can be cached
    (`Family.block_cache`). A block takes `hidden_states`,
    `encoder_hidden_states`, `temb` and further inputs that all samples share, as keywords, and returns text and image
    tokens."""

    def __init__(
        self,
        network: Callable[..., tuple[Tensor]],
        vae: Any,
        transformer_config: Mapping[str, Any],
        *,
        resolution: int | tuple[int, int],
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        truncate_sigma: bool = False,
    ) -> None:
        """Wrap a transformer.

        Args:
            network: The transformer, or the engine that trains it; called with the transformer's keywords.
            vae: Frozen autoencoder of diffusers.
            transformer_config: The transformer's config, as diffusers saves it.
            resolution: Height and width of the images in pixels; one number for squares. `at_size` changes it.
            dtype: Data type of the transformer's inputs; sigmas (embedded ones too), steps and images are float32.
            device: Device of the transformer and the VAE.
            truncate_sigma: Truncate the transformer's sigmas to multiples of 0.001.
        """
        self.network = network
        self.vae = vae
        self.transformer_config = transformer_config
        self.dtype = dtype
        self.device = torch.device(device)
        self.truncate_sigma = truncate_sigma
        self.size = ImageSize.of(resolution)
        """Size of the images whose tokens the policy's functions take and return."""
        self._pixels, self._channels = vae_shape(vae.config)
        self._position_ids_of: dict[ImageSize, Tensor] = {}
        self.empty_prompt: Conditioning | None = None
        """Text features of the empty prompt, one sample, for classifier-free guidance and for `contrast`."""
        self.rollout_base: RolloutBase | None = None
        """Low-precision copies of frozen layers that `rollout` uses; None uses the transformer's own weights."""
        self.training_decoder: AutoencoderTiny | None = None
        self.contrast: Contrast | None = None
        """Other model that all velocities are contrasted with; None uses the network alone."""
        self._evaluations = Evaluations()

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of the latents."""
        return self.size.height // self._pixels, self.size.width // self._pixels

    @property
    def token_shape(self) -> tuple[int, int]:
        """Number of tokens N of an image and their channels 4C."""
        height, width = self.latent_size
        return height // 2 * (width // 2), self._channels * 4

    @contextmanager
    def at_size(self, size: ImageSize) -> Iterator[None]:
        """Let all functions take and return tokens of images of another size; the present size is restored at the end.

        A backward pass through them must run inside the block.

        Args:
            size: Size of the images.
        """
        before, self.size = self.size, size
        try:
            yield
        finally:
            self.size = before

    @property
    def _position_ids(self) -> Tensor:
        """Position ids of the image tokens, as `_make_position_ids` computes them; kept for each size."""
        if self.size not in self._position_ids_of:
            self._position_ids_of[self.size] = self._make_position_ids()
        return self._position_ids_of[self.size]

    def _make_position_ids(self) -> Tensor:
        """Compute the position ids of FLUX `[N, 3]`."""
        return position_ids(*self.latent_size, self.device)

    @staticmethod
    @abstractmethod
    def text_features(pipeline: Any, prompts: list[str], max_sequence_length: int) -> tuple[Tensor, Tensor]:
        """Compute features of every token `[B, L, D]` and pooled features `[B, P]` with a pipeline's text encoders.

        Args:
            pipeline: A pipeline of diffusers without transformer and VAE.
            prompts: B prompts.
            max_sequence_length: Number of tokens L; longer prompts are truncated.
        """

    @abstractmethod
    def _predict(self, tokens: Tensor, sigma: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        """Call the network and count its samples: velocity `[B, N, 4C]` of tokens in `dtype` at sigmas `[B]`."""

    def velocity(self, tokens: Tensor, sigma: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        """Compute the transformer's estimate of `noise - clean`.

        Args:
            tokens: Noisy tokens `[B, N, 4C]`.
            sigma: Noise level of each sample `[B]`, in [0, 1].
            conditioning: Text features of B plain prompts.
            guidance_scale: Guidance scale: an input of the transformer, or classifier-free with a second prediction,
                where 1 is none.

        Returns:
            Velocity `[B, N, 4C]`, float32; the contrast of two models if there is a `contrast`.
        """
        seen = (sigma * 1000).floor() / 1000 if self.truncate_sigma else sigma
        seen = seen.to(self.device, torch.float32)

        def predict(text: Conditioning) -> Tensor:
            return self._predict(tokens.to(self.dtype), seen, text.contiguous(), guidance_scale)

        if self.contrast is None:
            return predict(conditioning).float()
        tuned, other = partial(predict, conditioning), partial(predict, self._text_of_other(conditioning))
        return self.contrast.velocity(sigma, tuned, partial(self._with_network, self.contrast.other, other))

    def _text_of_other(self, conditioning: Conditioning) -> Conditioning:
        """Compute the text features that the other model of the contrast reads."""
        if self.contrast is None or self.contrast.text == 1:
            return conditioning
        assert self.empty_prompt is not None, "the text of the other model needs the features of the empty prompt"
        return conditioning.scaled(self.empty_prompt, self.contrast.text)

    def _with_network(self, network: Callable[..., tuple[Tensor]], predict: Callable[[], Tensor]) -> Tensor:
        """Call a function with another network in place of the policy's own."""
        own, self.network = self.network, network
        try:
            return predict()
        finally:
            self.network = own

    def _count(self, samples: int) -> None:
        if torch.is_grad_enabled():
            self._evaluations.forward_backward += samples
        else:
            self._evaluations.forward += samples

    def take_evaluations(self) -> Evaluations:
        """Return the counts since the last call of this function, and reset them."""
        taken, self._evaluations = self._evaluations, Evaluations()
        return taken

    @torch.no_grad()
    def rollout(
        self,
        noise: Tensor,
        conditioning: Conditioning,
        sigmas: Tensor,
        guidance_scale: float,
        cache_threshold: float | None = None,
    ) -> Tensor:
        """Run `integrate` without gradient: clean tokens from pure noise, if `sigmas` runs from 1 to 0.

        If there is a `rollout_base`, its layers replace those of the transformer.

        Args:
            noise: Tokens at the first sigma `[B, N, 4C]`.
            conditioning: Text features of B prompts.
            sigmas: Grid, noisiest first.
            guidance_scale: See `velocity`.
            cache_threshold: Threshold of a first-block cache for this rollout, see `BlockCache`; None runs all blocks.

        Returns:
            Tokens at the last sigma `[B, N, 4C]`, float32.
        """
        with self._cheaper(cache_threshold):
            return self.integrate(noise, conditioning, sigmas, guidance_scale)

    @torch.no_grad()
    def trajectory(
        self,
        noise: Tensor,
        conditioning: Conditioning,
        sigmas: Tensor,
        guidance_scale: float,
        cache_threshold: float | None = None,
    ) -> Tensor:
        """Run `rollout`, and return the tokens at every sigma `[len(sigmas), B, N, 4C]`, float32."""
        with self._cheaper(cache_threshold):
            return torch.stack(list(self._walk(noise, conditioning, sigmas, guidance_scale)))

    @contextmanager
    def _cheaper(self, threshold: float | None) -> Iterator[None]:
        """Sample with the `rollout_base`, and with a first-block cache if there is a threshold."""
        with self.rollout_base.active() if self.rollout_base else nullcontext():
            if threshold is None:
                yield
                return
            transformer, cache = getattr(self.network, "module", self.network), BlockCache(threshold)
            assert isinstance(transformer, nn.Module), "a first-block cache needs the blocks of the transformer"
            with cache.active(transformer, self.block_lists):
                yield
            self._evaluations.forward -= cache.skipped

    def integrate(self, tokens: Tensor, conditioning: Conditioning, sigmas: Tensor, guidance_scale: float) -> Tensor:
        """Integrate with Euler steps along a grid; if autograd is on, the gradient passes through all steps.

        Args:
            tokens: Tokens at the first sigma `[B, N, 4C]`.
            conditioning: Text features of B prompts.
            sigmas: Grid, noisiest first; a grid of one sigma has no step.
            guidance_scale: See `velocity`.

        Returns:
            Tokens at the last sigma `[B, N, 4C]`, float32.
        """
        for visited in self._walk(tokens, conditioning, sigmas, guidance_scale):
            tokens = visited
        return tokens

    def _walk(
        self, tokens: Tensor, conditioning: Conditioning, sigmas: Tensor, guidance_scale: float
    ) -> Iterator[Tensor]:
        """Yield the tokens at every sigma of a grid, for the rest see `integrate`."""
        yield tokens
        for sigma, sigma_next in pairwise(sigmas.to(self.device, torch.float32)):
            here, there = sigma.expand(len(tokens)), sigma_next.expand(len(tokens))
            velocity = self.velocity(tokens, here, conditioning, guidance_scale)
            tokens = euler_step(tokens, velocity, here, there)
            yield tokens

    def noise(self, generators: list[torch.Generator]) -> Tensor:
        """Draw standard normal tokens `[len(generators), N, 4C]`, one sample per CPU generator."""
        return torch.stack([torch.randn(self.token_shape, generator=g) for g in generators]).to(self.device)

    def decode(self, tokens: Tensor) -> Tensor:
        """Decode tokens to images `[B, 3, H, W]` in [0, 1], float32; clipped pixels have no gradient."""
        return self._decode(tokens, self.vae)

    def decode_for_training(self, tokens: Tensor) -> Tensor:
        """Decode tokens to the images that rewards score in training, as `decode`, with `model.decoder` if it is set.

        Evaluations and samples call `decode`, so that their scores are comparable between runs.
        """
        return self._decode(tokens, self.training_decoder) if self.training_decoder else self.decode(tokens)

    def _decode(self, tokens: Tensor, decoder: Any) -> Tensor:
        latents = unpack(tokens, *self.latent_size)
        latents = latents / decoder.config["scaling_factor"] + decoder.config["shift_factor"]
        images = decoder.decode(latents.to(decoder.dtype), return_dict=False)[0]
        return (images.float() / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Encode images `[B, 3, H, W]` in [0, 1] to tokens `[B, N, 4C]`: the mode of the VAE's posterior."""
        config = self.vae.config
        (posterior,) = self.vae.encode((images * 2 - 1).to(self.vae.dtype), return_dict=False)
        return pack((posterior.mode().float() - config["shift_factor"]) * config["scaling_factor"])
