"""Regions of images: the border ring, erosion, and means and blurs inside a region."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from srpo_ray.small_world.shapes import BORDER, SIZE

RING = torch.ones(SIZE, SIZE, dtype=torch.bool)
"""Border ring [64, 64], which shows only background."""
RING[BORDER:-BORDER, BORDER:-BORDER] = False


def erode(mask: Tensor, pixels: int) -> Tensor:
    """Remove the outer pixels of masks [B, H, W]."""
    return -F.max_pool2d(-mask.float()[:, None], 2 * pixels + 1, 1, pixels)[:, 0] > 0.5


def or_whole(region: Tensor) -> Tensor:
    """Replace empty regions (no object found) by the whole image, so that every mean is defined."""
    return region | ~region.flatten(1).any(1)[:, None, None]


def mean_over(values: Tensor, region: Tensor) -> Tensor:
    """Compute the mean of values [B, H, W] inside regions [B, H, W]; 0 for an empty region."""
    weight = region.float()
    return (values * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)


def blurred(values: Tensor, region: Tensor) -> Tensor:
    """Blur over 7 pixels inside the region only, normalised by its coverage, so that outlines have no effect."""
    weight = region.float()
    return (F.avg_pool2d((values * weight)[:, None], 7, 1, 3) / _coverage(weight))[:, 0]


def _coverage(weight: Tensor) -> Tensor:
    return F.avg_pool2d(weight[:, None], 7, 1, 3).clamp(min=1e-6)
