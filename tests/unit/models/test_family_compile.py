"""Compiled blocks of FLUX.2, Z-Image and Qwen-Image: one graph without breaks, and the gradients of eager blocks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from srpo_ray.models.attention import compile_blocks
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.families import family_of
from srpo_ray.models.loading import load_transformer, load_vae
from srpo_ray.models.registry import policy_class
from tests.helpers.models.tiny_pipeline import with_adapters

WIDTHS = {"flux2": 48, "z_image": 16, "qwen_image": 16}
"""Channels of the text features."""


def step(path: str, transformer: Any, width: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Velocity of two samples with texts of different lengths, and the adapters' gradients of its square."""
    vae = load_vae(path, torch.float32)
    policy = policy_class(path)(transformer, vae, transformer.config, resolution=64, dtype=torch.float32)
    source = torch.Generator().manual_seed(0)
    text = torch.randn(2, 8, width, generator=source)
    if family_of(path).masked_text:
        mask = torch.ones(2, 8, 1)
        mask[1, 5:] = 0
        text = torch.cat([text, mask], dim=-1)
    tokens = torch.randn(2, *policy.token_shape, generator=source)
    velocity = policy.velocity(tokens, torch.tensor([0.7, 0.4]), Conditioning(text, torch.zeros(2, 1)), 1.0)
    velocity.square().sum().backward()
    gradients = {name: value.grad for name, value in transformer.named_parameters() if value.grad is not None}
    return velocity.detach(), gradients


@pytest.mark.long
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", WIDTHS)
def test_compiled_blocks_have_the_gradients_of_eager_ones(
    tiny: Callable[[str], Path], name: str, recompute: bool
) -> None:
    path = str(tiny(name))
    eager, compiled = (with_adapters(load_transformer(path, torch.float32)) for _ in range(2))
    if recompute:
        eager.enable_gradient_checkpointing()
        compiled.enable_gradient_checkpointing()
    # A graph break is an error, whatever the backend.
    compile_blocks(compiled, family_of(path).blocks, backend="aot_eager")
    velocity, found = step(path, compiled, WIDTHS[name])
    expected, wanted = step(path, eager, WIDTHS[name])
    torch.testing.assert_close(velocity, expected, rtol=1e-5, atol=1e-5)
    # Adapters that no output depends on have a gradient of 0 in one of the two, and none in the other.
    assert wanted.keys() <= found.keys()
    for key, gradient in found.items():
        torch.testing.assert_close(gradient, wanted.get(key, torch.zeros_like(gradient)), rtol=1e-4, atol=1e-5)
