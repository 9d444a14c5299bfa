"""Bridge that inserts a precomputed reward gradient into the trainer's autograd graph."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from srpo_ray.rewards.base import Scores
from srpo_ray.rewards.input_spec import InputSpec


class _ScoreBridge(torch.autograd.Function):
    """Return the total in the forward pass; multiply the stored gradients by the upstream one in the backward pass."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, gradients: tuple[Tensor, ...], *_pixels: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return total.clone()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *upstream: Tensor
    ) -> tuple[Tensor | None, ...]:
        # d loss / d pixels[b] = (d loss / d total[b]) * (d total[b] / d pixels[b]); samples do not mix.
        per_sample = upstream[0].view(-1, 1, 1, 1)
        return None, None, *(per_sample * gradient for gradient in ctx.saved_tensors)


def connect_scores(
    values: Mapping[str, Tensor],
    weights: Mapping[str, float],
    gradients: Mapping[InputSpec, Tensor],
    pixels: Mapping[InputSpec, Tensor],
) -> Scores:
    """Compute the weighted sum of the rewards and connect it to the pixels by autograd.

    Args:
        values: Per reward `[B]`, unweighted.
        weights: Factor of each reward.
        gradients: Per input spec `[B, 3, size, size]`, gradient of each sample's weighted sum; empty to connect none.
        pixels: Resized images per input spec, still in the trainer's graph.
    """
    total = torch.stack([weight * values[name] for name, weight in weights.items()]).sum(0)
    if gradients:
        total = connect_total(total, tuple(gradients.values()), [pixels[input_spec] for input_spec in gradients])
    return Scores(total, dict(values), dict(weights))


def connect_total(total: Tensor, gradients: tuple[Tensor, ...], pixels: Sequence[Tensor]) -> Tensor:
    """Connect the weighted sum of the rewards `[B]` to pixels by autograd.

    Args:
        total: Weighted sum of each sample.
        gradients: Gradient of each sample's sum in each of `pixels`.
        pixels: Images `[B, 3, H, W]`, in the trainer's graph.
    """
    # The caller may collect the scores with autograd off, although the images' graph was built with autograd on.
    with torch.enable_grad():
        return _ScoreBridge.apply(total, gradients, *pixels)
