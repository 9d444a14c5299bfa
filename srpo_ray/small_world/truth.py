"""Measurement of the true content and style of small-world images, from their pixels alone."""

from __future__ import annotations

from itertools import permutations
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from srpo_ray.small_world.prompts import BACKGROUNDS, SHAPES, Content, parse_prompt
from srpo_ray.small_world.renderer import (
    BORDER,
    DARKEST,
    HUES,
    OBJECT_VALUE,
    PALEST,
    SIZE,
    TEXTURE_CONTRAST,
    VIGNETTE,
    hue_to_rgb,
    shape_area,
    shape_distance,
    stripe_patterns,
    vignette_profile,
)

_BROWN_CHROMA, _BLACK, _WHITE = 0.06, 0.15, 0.445
"""Border colours: brown above this chroma; else black or white beyond these luminances; else gray."""
_SMALLEST_OBJECT = 40
"""Number of pixels below which a region is no object; the renderer's smallest object has 100."""
PARTS = ("color", "shape", "background", "count", "position")
"""Parts of the content whose accuracy is measured."""


@torch.no_grad()
def measure(images: Tensor, prompts: list[str]) -> dict[str, Tensor]:
    """Measure style and content of images.

    Args:
        images: [B, 3, 64, 64] in [0, 1], any float type.
        prompts: B prompts of the small world, which define the correct content.

    Returns:
        Tensors [B], float32, on the CPU. `detail`: strength of the renderer's texture in objects and background
        (clean images: 0 to 1). `saturation`: mean HSV saturation of the objects in [0, 1].
        `brightness`: mean HSV value of the objects in [0, 1], without the vignette. `vignette`: share of the light that
        the corners lose. `color_accuracy`, `shape_accuracy`: share of the caption's objects that have the right colour,
        shape. `background_accuracy`, `count_accuracy`, `position_accuracy`: 0 or 1; the position is right if the
        caption names none. `content_accuracy`: mean of the five.

    Raises:
        ValueError: for another image shape, another number of prompts, or a text that is not a small-world prompt.
    """
    if images.ndim != 4 or images.shape[1:] != (3, SIZE, SIZE) or len(images) != len(prompts):
        raise ValueError(
            f"measure: expected images [B, 3, {SIZE}, {SIZE}] and B prompts, got {tuple(images.shape)} and "
            f"{len(prompts)} prompts; decode at {SIZE}x{SIZE} and pass one prompt per image"
        )
    images = images.detach().float().cpu().clamp(0, 1)
    vignette = corner_loss(images)
    images = (images / (1 - vignette[:, None, None] * _PROFILE)[:, None]).clamp(0, 1)
    mask = object_mask(images)
    inside, outside = _erode(mask, 2), _erode(~mask, 2)
    interior = _or_whole(inside)
    content = _content(images, mask, [parse_prompt(prompt)[1] for prompt in prompts])
    return {
        "detail": _detail(images, inside, outside),
        "saturation": _mean_over(_hsv_saturation(images), interior),
        "brightness": _mean_over(images.amax(1), interior),
        "vignette": vignette,
        **{f"{part}_accuracy": content[:, index] for index, part in enumerate(PARTS)},
        "content_accuracy": content.mean(1),
    }


def style(metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert measured style to the scale of the renderer, where a clean image has 0 to 1 on each axis.

    Args:
        metrics: result of `measure`.
    """
    return {
        "detail": metrics["detail"],
        "saturation": (metrics["saturation"] - PALEST) / (1 - PALEST),
        "brightness": (metrics["brightness"] / OBJECT_VALUE - DARKEST) / (1 - DARKEST),
        "vignette": metrics["vignette"] / VIGNETTE,
    }


@torch.no_grad()
def diversity(images: Tensor) -> Tensor:
    """Compute the diversity of each prompt's images: mean pairwise RMS pixel difference over seeds, [B].

    Args:
        images: [S, B, 3, H, W] in [0, 1], S >= 2 seeds for each of B prompts.

    Raises:
        ValueError: for another shape or fewer than two seeds.
    """
    if images.ndim != 5 or len(images) < 2:
        raise ValueError(
            f"diversity: expected images [S >= 2, B, 3, H, W], got {tuple(images.shape)}; sample two seeds or more"
        )
    images = images.detach().float()
    pairs = torch.combinations(torch.arange(len(images)))
    return torch.stack([(images[i] - images[j]).square().mean((1, 2, 3)).sqrt() for i, j in pairs.tolist()]).mean(0)


_PROFILE = torch.from_numpy(vignette_profile())
_PATTERNS = torch.from_numpy(stripe_patterns())
_RING = torch.ones(SIZE, SIZE, dtype=torch.bool)
_RING[BORDER:-BORDER, BORDER:-BORDER] = False


def corner_loss(images: Tensor) -> Tensor:
    """Fit the light of the border ring, which shows only background, by `a * (1 - loss * profile)`.

    The fit is least squares over the ring, where texture and gradient of the background average out.

    Returns:
        The loss [B], the share of the light that the corners lose.
    """
    profile, light = _PROFILE[_RING], images.mean(1)[:, _RING]
    centred = profile - profile.mean()
    slope = (light * centred).sum(1) / centred.square().sum()
    base = light.mean(1) - slope * profile.mean()
    # A ring that is darker in the middle of the sides than in the corners has no vignette, but may be measured as such.
    return (-slope / base.clamp(min=0.02)).clamp(-0.5, 0.9)


def object_mask(images: Tensor) -> Tensor:
    """Return the objects' pixels, bool [B, 64, 64]: those whose colour is far from the border's median.

    Args:
        images: [B, 3, 64, 64] without vignette.
    """
    ground = images[:, :, _RING].median(dim=2).values[:, :, None, None]
    distance = (images - ground).square().sum(1).sqrt()
    # The top 5% of distances are object for any content; 0.4 of it is between ground texture and object texture.
    top = distance.flatten(1).quantile(0.95, dim=1)[:, None, None]
    return distance > (0.4 * top).clamp(min=0.06)


def _content(images: Tensor, mask: Tensor, wanted: list[Content]) -> Tensor:
    """Compute the accuracy of every part of the content, [B, 5] in the order of `PARTS`."""
    backgrounds = _border_background(images)
    rows = []
    for image, objects, content, background in zip(images, mask, wanted, backgrounds.tolist(), strict=True):
        regions = _regions(objects)
        found = _describe(image, regions)
        color, shape, position = _best_match(content, found)
        count = float(len(found) == len(content.objects))
        rows.append([color, shape, float(background == content.background), count, position])
    return torch.tensor(rows, dtype=torch.float32)


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
    eroded = _erode(regions, 1)
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
    ground = images[:, :, _RING].median(dim=2).values
    chroma = ground.amax(1) - ground.amin(1)
    luminance = ground.mean(1)
    name = torch.full_like(luminance, BACKGROUNDS.index("gray"), dtype=torch.long)
    name[luminance < _BLACK] = BACKGROUNDS.index("black")
    name[luminance > _WHITE] = BACKGROUNDS.index("white")
    name[chroma > _BROWN_CHROMA] = BACKGROUNDS.index("brown")
    return name


def _nearest_color(images: Tensor, interior: Tensor) -> Tensor:
    mean = torch.stack([_mean_over(images[:, channel], interior) for channel in range(3)], dim=1)
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


def _detail(images: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """Fit the renderer's texture to objects and background by least squares; return its strength [B]."""
    light = images.mean(1)
    residual, texture = torch.zeros_like(light), torch.zeros_like(light)
    for region, contrast, pattern in zip((inside, outside), TEXTURE_CONTRAST, _PATTERNS, strict=True):
        local = _blurred(light, region)
        residual += region * (light - local)
        drawn = contrast * local * pattern
        texture += region * (drawn - _blurred(drawn, region))
    return (texture * residual).sum((1, 2)) / texture.square().sum((1, 2)).clamp(min=1e-3)


def _blurred(values: Tensor, region: Tensor) -> Tensor:
    """Blur over 7 pixels inside the region only, normalised by its coverage, so that outlines have no effect."""
    weight = region.float()
    return (F.avg_pool2d((values * weight)[:, None], 7, 1, 3) / _coverage(weight))[:, 0]


def _coverage(weight: Tensor) -> Tensor:
    return F.avg_pool2d(weight[:, None], 7, 1, 3).clamp(min=1e-6)


def _hsv_saturation(images: Tensor) -> Tensor:
    top = images.amax(1)
    return (top - images.amin(1)) / top.clamp(min=1e-3)


def _erode(mask: Tensor, pixels: int) -> Tensor:
    return -F.max_pool2d(-mask.float()[:, None], 2 * pixels + 1, 1, pixels)[:, 0] > 0.5


def _or_whole(region: Tensor) -> Tensor:
    """Replace empty regions (no object found) by the whole image, so that every mean is defined."""
    return region | ~region.flatten(1).any(1)[:, None, None]


def _mean_over(values: Tensor, region: Tensor) -> Tensor:
    weight = region.float()
    return (values * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)
