"""Stable Diffusion 3 and 3.5 as a policy."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from srpo_ray.models.classifier_free import ClassifierFreePolicy
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.latents import pack, unpack


class SD3Policy(ClassifierFreePolicy):
    """Policy of SD3, with classifier-free guidance."""

    block_lists = ("transformer_blocks",)

    def __init__(self, network: Any, vae: Any, transformer_config: Mapping[str, Any], **settings: Any) -> None:
        """See `FlowPolicy`.

        Raises:
            ValueError: If the images are larger than the transformer's grid of positions.
        """
        super().__init__(network, vae, transformer_config, **settings)
        side, most = self.latent_size // transformer_config["patch_size"], transformer_config["pos_embed_max_size"]
        if side > most:
            pixels = settings["resolution"] // side
            raise ValueError(
                f"model.resolution: expected at most {most * pixels} for this model, which has {most}x{most} positions,"
                f" got {settings['resolution']}; lower it"
            )

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
            hidden_states=unpack(tokens, self.latent_size, self.latent_size),
            timestep=sigma * 1000,
            pooled_projections=conditioning.pooled_prompt_embeds,
            encoder_hidden_states=conditioning.prompt_embeds,
            return_dict=False,
        )
        return pack(velocity)
