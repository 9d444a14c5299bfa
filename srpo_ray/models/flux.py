"""FLUX.1 as a policy: dev, schnell, Krea and the embedded tiny model."""

from typing import Any

import torch
from torch import Tensor

from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.exact_time import exact_times
from srpo_ray.models.policy import FlowPolicy


class FluxPolicy(FlowPolicy):
    """Policy of FLUX.1. Guidance is an input of the transformer; models such as FLUX.1-schnell have no such input."""

    block_lists = ("transformer_blocks", "single_transformer_blocks")

    @staticmethod
    def text_features(pipeline: Any, prompts: list[str], max_sequence_length: int) -> tuple[Tensor, Tensor]:
        """See `FlowPolicy.text_features`."""
        embeds, pooled, _ = pipeline.encode_prompt(prompts, max_sequence_length=max_sequence_length)
        return embeds, pooled

    def _predict(self, tokens: Tensor, sigma: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        batch = len(tokens)
        self._count(batch)
        guides = self.transformer_config["guidance_embeds"]
        guidance = torch.full((batch,), guidance_scale, device=self.device) if guides else None
        # The transformer rounds sigma and guidance to its data type, then multiplies by 1000.
        with exact_times(sigma * 1000, None if guidance is None else guidance * 1000):
            (velocity,) = self.network(
                hidden_states=tokens,
                timestep=sigma,
                guidance=guidance,
                pooled_projections=conditioning.pooled_prompt_embeds,
                encoder_hidden_states=conditioning.prompt_embeds,
                txt_ids=torch.zeros(conditioning.prompt_embeds.shape[1], 3, device=self.device),
                img_ids=self._position_ids,
                return_dict=False,
            )
        return velocity
