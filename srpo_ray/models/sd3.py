"""Stable Diffusion 3 and 3.5 as a policy."""

from typing import Any

from torch import Tensor

from srpo_ray.models.classifier_free import ClassifierFreePolicy
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.latents import pack, unpack


class SD3Policy(ClassifierFreePolicy):
    """Policy of SD3, with classifier-free guidance."""

    block_lists = ("transformer_blocks",)

    @staticmethod
    def text_features(pipeline: Any, prompts: list[str], max_sequence_length: int) -> tuple[Tensor, Tensor]:
        """See `FlowPolicy.text_features`."""
        embeds, _, pooled, _ = pipeline.encode_prompt(
            prompts, None, None, do_classifier_free_guidance=False, max_sequence_length=max_sequence_length
        )
        return embeds, pooled

    def _call(self, tokens: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        self._count(len(tokens))
        (velocity,) = self.network(
            hidden_states=unpack(tokens, *self.latent_size),
            timestep=sigma * 1000,
            pooled_projections=conditioning.pooled_prompt_embeds,
            encoder_hidden_states=conditioning.prompt_embeds,
            return_dict=False,
        )
        return pack(velocity)
