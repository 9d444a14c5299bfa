"""A FLUX transformer of a few thousand weights, and batches and a loss to train it with."""

from collections.abc import Iterator
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor


def tiny_transformer(dtype: torch.dtype = torch.float32, *, heads: int = 3, blocks: int = 1) -> FluxTransformer2DModel:
    """A FLUX transformer with random weights and so many blocks of each kind."""
    torch.manual_seed(0)
    # diffusers annotates `to` as if it took no data type.
    network: Any = FluxTransformer2DModel(
        in_channels=12,
        num_layers=blocks,
        num_single_layers=blocks,
        attention_head_dim=6,
        num_attention_heads=heads,
        joint_attention_dim=7,
        pooled_projection_dim=5,
        guidance_embeds=True,
        axes_dims_rope=(2, 2, 2),
    )
    return network.to(dtype)


def call(network: Any, tokens: Tensor, sigma: Tensor) -> Tensor:
    batch = len(tokens)
    return network(
        hidden_states=tokens,
        timestep=sigma,
        guidance=torch.full((batch,), 3.5),
        pooled_projections=torch.ones(batch, 5, dtype=tokens.dtype),
        encoder_hidden_states=torch.ones(batch, 2, 7, dtype=tokens.dtype),
        txt_ids=torch.zeros(2, 3),
        img_ids=torch.zeros(4, 3),
        return_dict=False,
    )[0].float()


def batches(steps: range, size: int = 4) -> list[tuple[Tensor, Tensor, Tensor]]:
    draws = []
    for step in steps:
        source = torch.Generator().manual_seed(step)
        draws.append((*torch.randn(2, size, 4, 12, generator=source), torch.rand(size, generator=source)))
    return draws


def losses(network: Any, first: Tensor, second: Tensor, sigma: Tensor) -> Tensor:
    """Two forward passes and one summed loss, as the two branches of SRPO make them."""
    one, other = each_loss(network, first, second, sigma)
    return one + other


def each_loss(network: Any, first: Tensor, second: Tensor, sigma: Tensor) -> Iterator[Tensor]:
    """The two losses, each with its forward pass when it is asked for."""
    yield call(network, first, sigma).pow(2).mean() / 2
    yield call(network, second, sigma).abs().mean() / 2


def relative_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    difference = sum((found[name] - expected[name]).double().pow(2).sum().item() for name in expected)
    size = sum(value.double().pow(2).sum().item() for value in expected.values())
    return (difference / size) ** 0.5
