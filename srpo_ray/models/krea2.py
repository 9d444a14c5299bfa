"""Krea 2 as a policy: the base model with classifier-free guidance, and Turbo without."""

from typing import Any

import torch
from torch import Tensor

from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.masked_text import append_mask, mask_of
from srpo_ray.models.qwen_image import QwenImagePolicy


class Krea2Policy(QwenImagePolicy):
    """Policy of Krea 2. It has the autoencoder of Qwen-Image, and reads several layers of its text encoder."""

    @staticmethod
    def text_features(pipeline: Any, prompts: list[str], max_sequence_length: int) -> tuple[Tensor, Tensor]:
        """See `FlowPolicy.text_features`; the layers of a token lie side by side, and the last channel is the mask."""
        embeds, mask = pipeline.encode_prompt(prompts, max_sequence_length=max_sequence_length)
        return append_mask(embeds.flatten(2), mask), embeds.new_zeros(len(embeds), 1)

    def _guide(self, without: Tensor, guided: Tensor, guidance_scale: float) -> Tensor:
        # Qwen-Image's pipeline rescales the combined velocity to the norm of the prompt's; this one does not.
        return without + guidance_scale * (guided - without)

    def _call(self, tokens: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        self._count(len(tokens))
        text, mask = mask_of(conditioning.prompt_embeds)
        ids = self._position_ids
        (velocity,) = self.network(
            hidden_states=tokens,
            encoder_hidden_states=text.unflatten(2, (self.transformer_config["num_text_layers"], -1)),
            timestep=sigma,
            # All text tokens are at the origin.
            position_ids=torch.cat([ids.new_zeros(text.shape[1], 3), ids]),
            # A plan has no values: all tokens count.
            encoder_attention_mask=None if text.is_meta else mask,
            return_dict=False,
        )
        return velocity
