"""Measurement of the true content of small-world images: colours, shapes, number, positions and background."""

from __future__ import annotations

from itertools import permutations
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from srpo_ray.small_world.prompts import BACKGROUNDS, SHAPES, Content
from srpo_ray.small_world.regions import RING, erode, mean_over
from srpo_ray.small_world.renderer import HUES, hue_to_rgb
from srpo_ray.small_world.shapes import SIZE, shape_area, shape_distance

_BROWN_CHROMA, _BLACK, _WHITE = 0.06, 0.15, 0.445
"""Border colours: brown above this chroma; else black or white beyond these luminances; else gray."""
_SMALLEST_OBJECT = 40
"""Number of pixels below which a region is no object; the renderer's smallest object has 100."""
PARTS = ("color", "shape", "background", "count", "position")
"""Parts of the content whose accuracy is measured."""


def content_accuracy(images: Tensor, mask: Tensor, wanted: list[Content]) -> Tensor:
    """Compute the accuracy of every part of the content.

    Args:
        images: [B, 3, 64, 64] in [0, 1] without vignette.
        mask: pixels of the objects, bool [B, 64, 64].
        wanted: B contents.

    Returns:
        Accuracies [B, 5] in the order of `PARTS`.
    """
    backgrounds = _border_background(images)
    rows = []
    for image, objects, content, background in zip(images, mask, wanted, backgrounds.tolist(), strict=True):
        found = objects_of(image, objects)
        color, shape, position = _best_match(content, found)
        count = float(len(found) == len(content.objects))
        rows.append([color, shape, float(background == content.background), count, position])
    return torch.tensor(rows, dtype=torch.float32)


def objects_of(image: Tensor, mask: Tensor) -> list[tuple[int, int, float, float]]:
    """Measure the objects of an image.

    Args:
        image: [3, 64, 64] in [0, 1] without vignette.
        mask: pixels of the objects, bool [64, 64].

    Returns:
        Index of the colour, index of the shape, and centre x, y in pixels, of each object.
    """
    return _describe(image, _regions(mask))


def _regions(mask: Tensor) -> Tensor:
    """Return the connected regions of a mask that are large enough to be objects, bool [R, 64, 64]."""
    labels, count = cast("tuple[NDArray[np.int32], int]", ndimage.label(mask.numpy()))
    regions = [labels == label for label in range(1, count + 1)]
    kept = [region for region in regions if region.sum() >= _SMALLEST_OBJECT]
    return torch.from_numpy(np.stack(kept)) if kept else torch.zeros(0, SIZE, SIZE, dtype=torch.bool)


def _describe(image: Tensor, regions: Tensor) -> list[tuple[int, int, float, float]]:
    """Return colour, shape and centre of each region."""
    if not len(regions):
        return []
    eroded = erode(regions, 1)
    interior = torch.where(eroded.flatten(1).any(1)[:, None, None], eroded, regions)
    colors = _nearest_color(image.expand(len(regions), -1, -1, -1), interior)
    x, y, _ = _centre_and_area(regions)
    return list(zip(colors.tolist(), _nearest_shape(regions).tolist(), x.tolist(), y.tolist(), strict=True))


def _best_match(content: Content, found: list[tuple[int, int, float, float]]) -> tuple[float, float, float]:
    """Match the caption's objects with regions so that most are right; return accuracy of colour, shape, position."""
    number = len(content.objects)
    padded = [*found, *([(-1, -1, 0.0, 0.0)] * max(0, number - len(found)))]
    best = (0.0, 0.0, 0.0)
    for chosen in permutations(padded, number):
        pairs = list(zip(content.objects, chosen, strict=True))
        color = sum(kind[0] == region[0] for kind, region in pairs) / number
        shape = sum(kind[1] == region[1] for kind, region in pairs) / number
        best = max(best, (color, shape, _position(content, chosen)), key=sum)
    return best


def _position(content: Content, regions: tuple[tuple[int, int, float, float], ...]) -> float:
    if content.relation is None:
        return 1.0
    first, second = regions
    if -1 in (first[0], second[0]):
        return 0.0
    axis = 2 if content.relation == "left of" else 3
    return float(second[axis] - first[axis] > 0)


def _border_background(images: Tensor) -> Tensor:
    ground = images[:, :, RING].median(dim=2).values
    chroma = ground.amax(1) - ground.amin(1)
    luminance = ground.mean(1)
    name = torch.full_like(luminance, BACKGROUNDS.index("gray"), dtype=torch.long)
    name[luminance < _BLACK] = BACKGROUNDS.index("black")
    name[luminance > _WHITE] = BACKGROUNDS.index("white")
    name[chroma > _BROWN_CHROMA] = BACKGROUNDS.index("brown")
    return name


def _nearest_color(images: Tensor, interior: Tensor) -> Tensor:
    mean = torch.stack([mean_over(images[:, channel], interior) for channel in range(3)], dim=1)
    gap = _hue_angle(mean)[:, None] - _hue_angle(torch.from_numpy(hue_to_rgb(HUES)))[None, :]
    return ((gap + 180) % 360 - 180).abs().argmin(1)


def _hue_angle(rgb: Tensor) -> Tensor:
    """Compute the angle in degrees of colours [n, 3] around the gray axis, invariant to texture and fading to gray."""
    red, green, blue = rgb.unbind(1)
    return torch.rad2deg(torch.atan2(3**0.5 * (green - blue), 2 * red - green - blue))


def _centre_and_area(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return centroids x, y and areas of masks [R, 64, 64], in pixels."""
    pixel = torch.arange(SIZE) + 0.5
    area = mask.flatten(1).sum(1).clamp(min=1).float()
    x = (mask.float().sum(1) * pixel).sum(1) / area
    y = (mask.float().sum(2) * pixel).sum(1) / area
    return x, y, area


def _nearest_shape(mask: Tensor) -> Tensor:
    """Compare each mask with the four shapes of equal centroid and area by intersection over union."""
    pixel = torch.arange(SIZE) + 0.5
    x, y, area = _centre_and_area(mask)
    dx = (pixel[None, None, :] - x[:, None, None]).expand(-1, SIZE, -1).numpy()
    dy = (pixel[None, :, None] - y[:, None, None]).expand(-1, -1, SIZE).numpy()
    overlaps = []
    for shape in range(len(SHAPES)):
        radius = (area / shape_area(shape)).sqrt().numpy()
        index = np.full(len(mask), shape, dtype=np.int64)
        template = torch.from_numpy(shape_distance(index, dx, dy, radius) < 0)
        overlaps.append((mask & template).sum((1, 2)) / (mask | template).sum((1, 2)).clamp(min=1))
    return torch.stack(overlaps, dim=1).argmax(1)
