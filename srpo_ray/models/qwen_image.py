"""Qwen-Image as a policy."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from srpo_ray.models.classifier_free import ClassifierFreePolicy
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.exact_time import exact_times
from srpo_ray.models.latents import channel_statistics, pack, unpack
from srpo_ray.models.masked_text import append_mask, mask_of


class QwenImagePolicy(ClassifierFreePolicy):
    """Policy of Qwen-Image. Its autoencoder has a frame axis, and a mean and deviation for each latent channel."""

    @staticmethod
    def text_features(pipeline: Any, prompts: list[str], max_sequence_length: int) -> tuple[Tensor, Tensor]:
        """See `FlowPolicy.text_features`; the last channel is the mask of the tokens."""
        embeds, mask = pipeline.encode_prompt(prompts, max_sequence_length=max_sequence_length)
        mask = embeds.new_ones(embeds.shape[:2]) if mask is None else mask
        embeds = pad(append_mask(embeds, mask), (0, 0, 0, max_sequence_length - embeds.shape[1]))
        return embeds, embeds.new_zeros(len(embeds), 1)

    def _guide(self, without: Tensor, guided: Tensor, guidance_scale: float) -> Tensor:
        combined = super()._guide(without, guided, guidance_scale)
        # The pipeline gives each token the norm that it has with the prompt alone.
        return combined * (guided.norm(dim=-1, keepdim=True) / combined.norm(dim=-1, keepdim=True))

    def _call(self, tokens: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        self._count(len(tokens))
        text, mask = mask_of(conditioning.prompt_embeds)
        height, width = self.latent_size
        # The transformer rounds sigma to its data type.
        with exact_times(sigma, None):
            (velocity,) = self.network(
                hidden_states=tokens,
                timestep=sigma,
                encoder_hidden_states=text,
                # A plan has no values: all tokens count.
                encoder_hidden_states_mask=None if text.is_meta else mask,
                img_shapes=[[(1, height // 2, width // 2)]] * len(tokens),
                return_dict=False,
            )
        return velocity

    def _decode(self, tokens: Tensor, decoder: Any) -> Tensor:
        mean, deviation = channel_statistics(self.vae.config, self.device)
        latents = unpack(tokens, *self.latent_size) * deviation + mean
        images = decoder.decode(latents.unsqueeze(2).to(decoder.dtype), return_dict=False)[0][:, :, 0]
        return (images.float() / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """See `FlowPolicy.encode`."""
        mean, deviation = channel_statistics(self.vae.config, self.device)
        (posterior,) = self.vae.encode((images * 2 - 1).unsqueeze(2).to(self.vae.dtype), return_dict=False)
        return pack((posterior.mode().float()[:, :, 0] - mean) / deviation)
