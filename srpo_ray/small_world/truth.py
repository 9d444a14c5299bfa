"""Measurement of the true content and style of small-world images, from their pixels alone."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from srpo_ray.small_world.prompts import BACKGROUNDS, SHAPES, parse_content
from srpo_ray.small_world.renderer import BORDER, HUES, SIZE, hue_to_rgb, shape_area, shape_distance

_BROWN_CHROMA, _BLACK, _WHITE = 0.06, 0.15, 0.445
"""Border colours: brown above this chroma; else black or white beyond these luminances; else gray."""


@torch.no_grad()
def measure(images: Tensor, prompts: list[str]) -> dict[str, Tensor]:
    """Measure style and content of images.

    Args:
        images: [B, 3, 64, 64] in [0, 1], any float type.
        prompts: B prompts of the small world, which define the correct content.

    Returns:
        Tensors [B], float32, on the CPU. `detail`: texture contrast inside object and background, without the outline
        (clean images: 0 to about 0.15). `saturation`: mean HSV saturation of the object in [0, 1].
        `brightness`: mean HSV value of the object in [0, 1]. `color_accuracy`, `shape_accuracy`,
        `background_accuracy`: 0 or 1. `content_accuracy`: the mean of the three.

    Raises:
        ValueError: for another image shape, another number of prompts, or a text that is not a small-world prompt.
    """
    if images.ndim != 4 or images.shape[1:] != (3, SIZE, SIZE) or len(images) != len(prompts):
        raise ValueError(
            f"measure: expected images [B, 3, {SIZE}, {SIZE}] and B prompts, got {tuple(images.shape)} and "
            f"{len(prompts)} prompts; decode at {SIZE}x{SIZE} and pass one prompt per image"
        )
    images = images.detach().float().cpu().clamp(0, 1)
    mask = object_mask(images)
    inside, outside = _erode(mask, 2), _erode(~mask, 2)
    interior = _or_whole(inside)
    color, shape, background = torch.tensor([parse_content(prompt) for prompt in prompts]).T
    metrics = {
        "detail": _detail(images, inside, outside),
        "saturation": _mean_over(_hsv_saturation(images), interior),
        "brightness": _mean_over(images.amax(1), interior),
        "color_accuracy": (_nearest_color(images, interior) == color).float(),
        "shape_accuracy": (_nearest_shape(mask) == shape).float(),
        "background_accuracy": (_border_background(images) == background).float(),
    }
    content = [metrics[f"{part}_accuracy"] for part in ("color", "shape", "background")]
    return {**metrics, "content_accuracy": torch.stack(content).mean(0)}


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


def object_mask(images: Tensor) -> Tensor:
    """Return the object's pixels, bool [B, 64, 64]: those whose colour is far from the border's median."""
    ground = _border_pixels(images).median(dim=2).values[:, :, None, None]
    distance = (images - ground).square().sum(1).sqrt()
    # The top tenth of distances is object for any size; 0.4 of it is between ground texture and object texture.
    top = distance.flatten(1).quantile(0.9, dim=1)[:, None, None]
    return distance > (0.4 * top).clamp(min=0.06)


def _border_pixels(images: Tensor) -> Tensor:
    ring = torch.ones(SIZE, SIZE, dtype=torch.bool)
    ring[BORDER:-BORDER, BORDER:-BORDER] = False
    return images[:, :, ring]


def _border_background(images: Tensor) -> Tensor:
    ground = _border_pixels(images).median(dim=2).values
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


def _nearest_shape(mask: Tensor) -> Tensor:
    """Compare each mask with the four shapes of equal centroid and area by intersection over union."""
    pixel = torch.arange(SIZE) + 0.5
    area = mask.flatten(1).sum(1).clamp(min=1).float()
    x = (mask.float().sum(1) * pixel).sum(1) / area
    y = (mask.float().sum(2) * pixel).sum(1) / area
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
    """Compute the RMS of the residual of a 7-pixel blur, in object and background, relative to object brightness."""
    value = images.mean(1)
    energy = torch.stack([_texture_energy(value, region) for region in (inside, outside)]).sum(0)
    return energy.sqrt() / _mean_over(value, _or_whole(inside)).clamp(min=0.05)


def _texture_energy(value: Tensor, region: Tensor) -> Tensor:
    # Blur inside the region only (normalised by its coverage), so that the outline does not count as texture.
    weight = region.float()
    blurred = F.avg_pool2d((value * weight)[:, None], 7, 1, 3) / F.avg_pool2d(weight[:, None], 7, 1, 3).clamp(min=1e-6)
    return _mean_over((value - blurred[:, 0]).square(), region)


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
