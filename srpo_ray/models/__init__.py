"""FLUX as a policy: loading, latents, rollout."""

from srpo_ray.models.flux import FluxPolicy, load_transformer, load_vae, resolve_path, takes_guidance
from srpo_ray.models.text import Conditioning, encode_prompts

__all__ = [
    "Conditioning",
    "FluxPolicy",
    "encode_prompts",
    "load_transformer",
    "load_vae",
    "resolve_path",
    "takes_guidance",
]
