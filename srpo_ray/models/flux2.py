"""FLUX.2 as a policy: dev, whose guidance is an input of the transformer, and klein, with classifier-free guidance."""

from typing import Any

import torch
from torch import Tensor

from srpo_ray.models.classifier_free import ClassifierFreePolicy
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.exact_time import exact_times
from srpo_ray.models.latents import pack, unpack


class Flux2KleinPolicy(ClassifierFreePolicy):
    """Policy of FLUX.2 klein. Its tokens are normalised by the running statistics of the autoencoder."""

    def _make_position_ids(self) -> Tensor:
        """Compute the position ids of FLUX.2 `[N, 4]`: 0, row, column, 0."""
        ids = super()._make_position_ids()
        return torch.cat([ids, torch.zeros_like(ids[:, :1])], dim=1)

    @staticmethod
    def text_features(pipeline: Any, prompts: list[str], max_sequence_length: int) -> tuple[Tensor, Tensor]:
        """See `FlowPolicy.text_features`; there are no pooled features, and the transformer attends to padding."""
        embeds, _ = pipeline.encode_prompt(prompts, max_sequence_length=max_sequence_length)
        return embeds, embeds.new_zeros(len(embeds), 1)

    def _call(self, tokens: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        return self._embedded(tokens, sigma, conditioning, None)

    def _embedded(self, tokens: Tensor, sigma: Tensor, conditioning: Conditioning, guidance: Tensor | None) -> Tensor:
        """Call the network with a guidance scale for each sample `[B]`, or none."""
        self._count(len(tokens))
        length = conditioning.prompt_embeds.shape[1]
        text_ids = torch.zeros(length, 4, device=self.device)
        text_ids[:, 3] = torch.arange(length, device=self.device)
        # The transformer rounds sigma and guidance to its data type, then multiplies by 1000.
        with exact_times(sigma * 1000, None if guidance is None else guidance * 1000):
            (velocity,) = self.network(
                hidden_states=tokens,
                timestep=sigma,
                guidance=guidance,
                encoder_hidden_states=conditioning.prompt_embeds,
                txt_ids=text_ids,
                img_ids=self._position_ids,
                return_dict=False,
            )
        return velocity

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each token channel, `[4C]`."""
        norm = self.vae.bn
        return norm.running_mean.float(), (norm.running_var + self.vae.config["batch_norm_eps"]).sqrt().float()

    def _decode(self, tokens: Tensor, decoder: Any) -> Tensor:
        mean, deviation = self._statistics()
        latents = unpack(tokens * deviation + mean, *self.latent_size)
        images = decoder.decode(latents.to(decoder.dtype), return_dict=False)[0]
        return (images.float() / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """See `FlowPolicy.encode`."""
        mean, deviation = self._statistics()
        (posterior,) = self.vae.encode((images * 2 - 1).to(self.vae.dtype), return_dict=False)
        return (pack(posterior.mode().float()) - mean) / deviation


class Flux2Policy(Flux2KleinPolicy):
    """Policy of FLUX.2 dev. Guidance is an input of the transformer."""

    def _predict(self, tokens: Tensor, sigma: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        guides = self.transformer_config["guidance_embeds"]
        guidance = torch.full((len(tokens),), guidance_scale, device=self.device) if guides else None
        return self._embedded(tokens, sigma, conditioning, guidance)
