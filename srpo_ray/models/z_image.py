"""Z-Image as a policy: the base model with classifier-free guidance, and Turbo without."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from srpo_ray.models.classifier_free import ClassifierFreePolicy
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.latents import pack, unpack
from srpo_ray.models.masked_text import append_mask, mask_of


class ZImagePolicy(ClassifierFreePolicy):
    """Policy of Z-Image. Its transformer takes lists of latents and of texts, each text without its padding."""

    @staticmethod
    def text_features(pipeline: Any, prompts: list[str], max_sequence_length: int) -> tuple[Tensor, Tensor]:
        """See `FlowPolicy.text_features`; the last channel is the mask of the tokens."""
        # The pipeline replaces the list's prompts by those with the chat template.
        texts, _ = pipeline.encode_prompt(
            list(prompts), do_classifier_free_guidance=False, max_sequence_length=max_sequence_length
        )
        masked = [append_mask(text, torch.ones(len(text), device=text.device)) for text in texts]
        embeds = torch.stack([pad(text, (0, 0, 0, max_sequence_length - len(text))) for text in masked])
        return embeds, embeds.new_zeros(len(embeds), 1)

    def _call(self, tokens: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        self._count(len(tokens))
        latents = unpack(tokens, *self.latent_size).unsqueeze(2)
        text, mask = mask_of(conditioning.prompt_embeds)
        # A plan has no values: all tokens count.
        lengths = [text.shape[1]] * len(text) if text.is_meta else mask.sum(1).tolist()
        (velocities,) = self.network(
            x=list(latents.unbind()),
            # As the pipeline computes it from the scheduler's timesteps.
            t=(1000 - sigma * 1000) / 1000,
            cap_feats=[row[: int(length)] for row, length in zip(text, lengths, strict=True)],
            return_dict=False,
        )
        stacked = velocities if isinstance(velocities, Tensor) else torch.stack(velocities)
        # The transformer predicts `clean - noise`.
        return -pack(stacked.squeeze(2))
