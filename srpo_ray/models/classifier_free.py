"""Base class of policies with classifier-free guidance: a second prediction for the empty prompt."""

from abc import abstractmethod

import torch
from torch import Tensor

from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.policy import FlowPolicy


class ClassifierFreePolicy(FlowPolicy):
    """Flow policy whose guidance is classifier-free: a scale other than 1 doubles the rows that are predicted."""

    def _predict(self, tokens: Tensor, sigma: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        if guidance_scale == 1:
            return self._call(tokens, sigma, conditioning)
        assert self.empty_prompt is not None, "classifier-free guidance needs the features of the empty prompt"
        unguided = self.empty_prompt[[0] * len(tokens)].to(self.device, self.dtype)
        both = Conditioning(
            torch.cat([unguided.prompt_embeds, conditioning.prompt_embeds]),
            torch.cat([unguided.pooled_prompt_embeds, conditioning.pooled_prompt_embeds]),
        )
        without, guided = self._call(tokens.repeat(2, 1, 1), sigma.repeat(2), both).float().chunk(2)
        return self._guide(without, guided, guidance_scale)

    def _guide(self, without: Tensor, guided: Tensor, guidance_scale: float) -> Tensor:
        """Combine the velocities without and with the prompt, each `[B, N, 4C]` in float32."""
        return without + guidance_scale * (guided - without)

    @abstractmethod
    def _call(self, tokens: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """Compute the velocity `[B, N, 4C]` at sigmas `[B]` by one call, or one for each row, and count the rows."""
