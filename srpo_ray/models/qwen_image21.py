"""Qwen-Image-2.1 as a policy: one call of the transformer for each sample, and images with transparency."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from srpo_ray.models.classifier_free import ClassifierFreePolicy
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.exact_time import exact_times
from srpo_ray.models.latents import channel_statistics
from srpo_ray.models.masked_text import append_mask, mask_of

_TOKENS_PER_SLOT = 4
"""Image tokens, 2x2, of one slot of the transformer's `img_mask`."""


class QwenImage21Policy(ClassifierFreePolicy):
    """Policy of Qwen-Image-2.1 on tokens `[B, (H/16)*(W/16), C]`, each of which is one latent.

    In a sequence of text and image, the position of the image follows the length of the text, padding included. A call
    for several prompts would draw images that depend on the longest of them, so each sample has a call of its own,
    without padding. Prompts of equal length also get one call each: workers that share weights
    must make equally many calls.
    """

    @property
    def token_shape(self) -> tuple[int, int]:
        """See `FlowPolicy.token_shape`; a token is one latent."""
        height, width = self.latent_size
        return height * width, self._channels

    @staticmethod
    def text_features(pipeline: Any, prompts: list[str], max_sequence_length: int) -> tuple[Tensor, Tensor]:
        """See `FlowPolicy.text_features`; the last channel is the mask of the tokens.

        The pipeline pads the texts of a batch on the left, which moves the positions of shorter ones, and truncates
        none. Here each prompt is encoded alone. The encoder is causal, so the first tokens of a longer text have the
        features of a truncated one.
        """
        rows = []
        for prompt in prompts:
            embeds = pipeline.encode_prompt([prompt])[0][:, :max_sequence_length]
            features = append_mask(embeds, embeds.new_ones(embeds.shape[:2]))
            rows.append(pad(features, (0, 0, 0, max_sequence_length - embeds.shape[1])))
        return torch.cat(rows), rows[0].new_zeros(len(rows), 1)

    def _call(self, tokens: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        self._count(len(tokens))
        text, mask = mask_of(conditioning.prompt_embeds)
        if text.is_meta:
            # A plan has no values: all texts have full length, and one call costs as much as one for each sample.
            return self._call_together(tokens, sigma, text)
        lengths = mask.sum(dim=1).tolist()
        rows = [slice(index, index + 1) for index in range(len(tokens))]
        return torch.cat(
            [
                self._call_together(tokens[row], sigma[row], text[row, :length])
                for row, length in zip(rows, lengths, strict=True)
            ]
        )

    def _call_together(self, tokens: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        """Call the network for texts of equal length `[B, L, D]` without padding."""
        (samples, length, _), (height, width) = text.shape, self.latent_size
        # The transformer reads the values of the mask for its layout, so a plan needs them too.
        place = "cpu" if text.is_meta else text.device
        is_image = torch.arange(length + height * width // _TOKENS_PER_SLOT, device=place) >= length
        # The transformer rounds sigma to its data type.
        with exact_times(sigma, None):
            (velocity,) = self.network(
                hidden_states=tokens,
                encoder_hidden_states=text,
                timestep=sigma,
                img_shapes=[[(1, height, width)]] * samples,
                img_mask=is_image.expand(samples, -1),
                return_dict=False,
            )
        # The transformer returns the text's tokens too.
        return velocity[:, -tokens.shape[1] :]

    def _decode(self, tokens: Tensor, decoder: Any) -> Tensor:
        mean, deviation = channel_statistics(self.vae.config, self.device)
        latents = tokens.transpose(1, 2).unflatten(2, self.latent_size) * deviation + mean
        decoded = decoder.decode(latents.unsqueeze(2).to(decoder.dtype), return_dict=False)[0][:, :, 0]
        colors, alpha = (decoded.float() / 2 + 0.5).clamp(0, 1).split([3, 1], dim=1)
        # Over white, as the pipeline shows transparent images to its text encoder.
        return colors * alpha + (1 - alpha)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """See `FlowPolicy.encode`; images are opaque."""
        mean, deviation = channel_statistics(self.vae.config, self.device)
        pixels = torch.cat([images * 2 - 1, torch.ones_like(images[:, :1])], dim=1)
        (posterior,) = self.vae.encode(pixels.unsqueeze(2).to(self.vae.dtype), return_dict=False)
        return ((posterior.mode().float()[:, :, 0] - mean) / deviation).flatten(2).transpose(1, 2)
