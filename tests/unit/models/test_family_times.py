"""Sigma reaches the time embedding of the newer families in float32, also in bfloat16 transformers."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.families import family_of
from srpo_ray.models.loading import load_transformer, load_vae
from srpo_ray.models.registry import policy_class

SIGMAS = torch.arange(750, 965) / 1000
EMBEDDERS = {
    "flux2": ("time_guidance_embed.timestep_embedder", 32),
    "flux2_klein": ("time_guidance_embed.timestep_embedder", 32),
    "z_image": ("t_embedder.mlp.0", 256),
    "qwen_image": ("time_text_embed.timestep_embedder", 256),
    "krea2": ("time_embed.linear_1", 32),
    "qwen_image21": ("time_text_embed.timestep_embedder", 256),
}
"""Layer that reads the waves of the time, and their number."""
WIDTHS = {"flux2": 48, "flux2_klein": 48, "z_image": 16, "qwen_image": 16, "krea2": 48, "qwen_image21": 16}
"""Channels of the text features."""


def waves(thousandths: Tensor, count: int) -> Tensor:
    """Cosines and sines of frequencies from 1 to 1/10000, as in the original diffusion models."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(count // 2) / (count // 2))
    angles = thousandths[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


@pytest.mark.parametrize("name", EMBEDDERS)
def test_bfloat16_model_sees_every_thousandth_of_sigma(tiny: Callable[[str], Path], name: str) -> None:
    path, (layer, count) = str(tiny(name)), EMBEDDERS[name]
    transformer = load_transformer(path, torch.bfloat16).eval()
    vae = load_vae(path, torch.bfloat16)
    policy = policy_class(path)(transformer, vae, transformer.config, resolution=64, dtype=torch.bfloat16)
    seen: list[Tensor] = []
    transformer.get_submodule(layer).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    channels = WIDTHS[name] + family_of(path).masked_text
    text = torch.ones(len(SIGMAS), 4, channels, dtype=torch.bfloat16)
    tokens = torch.zeros(len(SIGMAS), *policy.token_shape)
    with torch.no_grad():
        policy.velocity(tokens, SIGMAS, Conditioning(text, torch.zeros(len(SIGMAS), 1)), 1.0)
    if name == "qwen_image21":
        # Each sample has a call, whose second row is the time 0 of its text.
        assert all(torch.equal(each[1:].float(), waves(torch.zeros(1), count)) for each in seen)
        seen = [torch.cat([each[:1] for each in seen])]
    # Krea 2 has an axis for the tokens that share a time.
    found = seen[0].flatten(1)
    # Z-Image counts from noise to image.
    expected = waves((1 - SIGMAS if name == "z_image" else SIGMAS) * 1000, count)
    assert len(torch.unique(found.float(), dim=0)) == len(SIGMAS) == 215
    torch.testing.assert_close(found.float(), expected.bfloat16().float(), rtol=0, atol=2**-8)
