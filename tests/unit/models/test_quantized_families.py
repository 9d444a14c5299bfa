"""Adapters over quantised FLUX.2, Z-Image and Qwen-Image against the same models with the dequantised weights."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from srpo_ray.config.model import BaseType
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.families import family_of
from srpo_ray.models.loading import load_transformer, load_vae
from srpo_ray.models.quantized import PACKAGES, dequantized, quantized_layers
from srpo_ray.models.registry import policy_class
from tests.helpers.models.tiny_pipeline import with_adapters
from tests.helpers.training.tiny_flux import relative_error

BASES: tuple[BaseType, ...] = ("int8", "nf4")
WIDTHS = {"flux2": 48, "z_image": 16, "qwen_image": 16}
"""Channels of the text features."""


def gradients(path: str, transformer: Any, width: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Velocity of a sample, and the adapters' gradients of its square."""
    vae = load_vae(path, torch.float32)
    policy = policy_class(path)(transformer, vae, transformer.config, resolution=64, dtype=torch.float32)
    source = torch.Generator().manual_seed(0)
    text = torch.randn(1, 8, width, generator=source)
    if family_of(path).masked_text:
        text = torch.cat([text, torch.ones(1, 8, 1)], dim=-1)
    tokens = torch.randn(1, 16, policy.token_shape[-1], generator=source)
    velocity = policy.velocity(tokens, torch.tensor([0.7]), Conditioning(text, torch.zeros(1, 1)), 1.0)
    velocity.square().sum().backward()
    trained = {name: value.grad for name, value in transformer.named_parameters() if value.grad is not None}
    return velocity.detach(), trained


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", WIDTHS)
def test_gradients_of_adapters_are_those_over_the_dequantised_weights(
    tiny: Callable[[str], Path], name: str, base: BaseType
) -> None:
    if importlib.util.find_spec(PACKAGES[base]) is None:
        pytest.skip(f"needs {PACKAGES[base]}")
    path = str(tiny(name))
    quantized, plain = load_transformer(path, torch.float32, base=base), load_transformer(path, torch.float32)
    layers = quantized_layers(quantized, family_of(path).blocks)
    changed = 0.0
    with torch.no_grad():
        for layer in layers:
            weight, stored = plain.get_submodule(layer).weight, dequantized(quantized.get_submodule(layer))
            changed = max(changed, (weight - stored).abs().max().item())
            weight.copy_(stored)
    assert changed > 0
    velocity, found = gradients(path, with_adapters(quantized), WIDTHS[name])
    expected, wanted = gradients(path, with_adapters(plain), WIDTHS[name])
    torch.testing.assert_close(velocity, expected, rtol=1e-4, atol=1e-4)
    assert relative_error(found, wanted) < 1e-4
