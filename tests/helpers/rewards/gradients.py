"""Comparison of image gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor

from srpo_ray.rewards.base import Reward
from srpo_ray.rewards.query import TextQuery


def cosines(one: Reward, other: Reward, images: Tensor, queries: Sequence[TextQuery]) -> Tensor:
    """Cosine `[B]` of each image between the gradients of two rewards."""
    gradients = []
    for reward in (one, other):
        pixels = images.clone().requires_grad_()
        scores = reward.score(pixels, queries)
        assert scores.dtype == torch.float32
        gradients.append(torch.autograd.grad(scores.sum(), pixels)[0].flatten(1).double())
    return torch.cosine_similarity(*gradients)
