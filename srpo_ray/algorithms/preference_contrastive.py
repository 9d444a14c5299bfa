"""Contrastive loss over captions: the caption of an image is told from the other captions of the forward pass."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from srpo_ray.algorithms.forward_process import Point
from srpo_ray.models.conditioning import Conditioning


def cross(point: Point, conditioning: Conditioning) -> tuple[Point, Conditioning]:
    """Combine the points of B images with the captions of all: row `i B + j` is image i with caption j.

    Args:
        point: Points of B images.
        conditioning: Text features of their captions.
    """
    size = len(conditioning)
    images, texts = torch.arange(size).repeat_interleave(size), torch.arange(size).repeat(size)
    return Point(*(part[images] for part in point)), conditioning[texts]


def own_rows(crossed: Tensor, size: int) -> Tensor:
    """Return the rows of `cross` that have an image with its own caption, `[B, ...]`."""
    return crossed[:: size + 1]


def contrastive(errors: Tensor, temperature: float, scale: float) -> Tensor:
    """Compute the cross-entropy of each image's own caption among all captions, `[B]`.

    The logits are `scale * exp(-errors / temperature)`, of which the highest possible one is `scale`.

    Args:
        errors: Error of image i (row) with caption j (column), `[B, B]`.
        temperature: Above 0.
        scale: Above 0.

    Source: SoftREPA, arXiv 2503.08250.
    """
    logits = scale * torch.exp(-errors / temperature)
    return cross_entropy(logits, torch.arange(len(logits), device=logits.device), reduction="none")


def contrastive_metrics(errors: Tensor) -> dict[str, Tensor]:
    """Compute the metrics of each image, `[B]`.

    Args:
        errors: Error of image i with caption j, `[B, B]`, B at least 2.
    """
    errors = errors.detach()
    own = errors.diagonal()
    others = errors.masked_fill(torch.eye(len(errors), dtype=torch.bool, device=errors.device), torch.inf)
    mean = (errors.sum(dim=1) - own) / (len(errors) - 1)
    return {
        "contrastive/accuracy": (own < others.amin(dim=1)).to(errors),
        "contrastive/margin": mean - own,
    }
