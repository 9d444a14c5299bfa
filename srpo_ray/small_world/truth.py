"""Measurement of the true content and style of small-world images, from their pixels alone."""

from __future__ import annotations

import torch
from torch import Tensor

from srpo_ray.config.size import ImageSize
from srpo_ray.small_world.content_truth import PARTS, content_accuracy
from srpo_ray.small_world.prompts import parse_prompt
from srpo_ray.small_world.regions import RING, blurred, erode, mean_over, or_whole
from srpo_ray.small_world.renderer import (
    DARKEST,
    OBJECT_VALUE,
    PALEST,
    TEXTURE_CONTRAST,
    VIGNETTE,
    stripe_patterns,
    vignette_profile,
)
from srpo_ray.small_world.shapes import SIZE

RENDERED = ImageSize(SIZE, SIZE)
"""Size of the images of the small world."""


def check_truth_size(key: str, prompts: str, size: ImageSize) -> None:
    """Check that the content of evaluated images can be measured: the measures are for images of 64 x 64 pixels.

    Args:
        key: Config key or option that gives the size.
        prompts: Source of the prompts; only those of the small world have true contents.
        size: Size of the images.

    Raises:
        ValueError: If the prompts are of the small world and the images have another size.
    """
    if prompts.startswith("small_world:") and size != RENDERED:
        raise ValueError(
            f"{key}: expected {SIZE} with {prompts}, whose true content is measured at {SIZE}x{SIZE} pixels only, got"
            f" {size}; set {key} to {SIZE}, or evaluate on the prompts of a file"
        )


def check_embedded_size(key: str, source: str, size: ImageSize) -> None:
    """Check the size at which a run trains on embedded images: they have 64 x 64 pixels and are not resized.

    Args:
        key: Config key of the source.
        source: Source of images; only those of the small world are checked.
        size: Size that the run gives these images.

    Raises:
        ValueError: If the images are embedded and the size is another one.
    """
    if source.startswith("small_world:") and size != RENDERED:
        raise ValueError(
            f"{key}: expected images of {SIZE} pixels with {source}, got {size}; set model.resolution to {SIZE}, put"
            f" {SIZE} first in model.sizes, or choose files"
        )


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
    images = without_vignette(images, vignette)
    mask = object_mask(images)
    inside, outside = erode(mask, 2), erode(~mask, 2)
    interior = or_whole(inside)
    content = content_accuracy(images, mask, [parse_prompt(prompt)[1] for prompt in prompts])
    return {
        "detail": _detail(images, inside, outside),
        "saturation": mean_over(_hsv_saturation(images), interior),
        "brightness": mean_over(images.amax(1), interior),
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


def without_vignette(images: Tensor, loss: Tensor) -> Tensor:
    """Restore the light that the corners lose.

    Args:
        images: [B, 3, 64, 64] in [0, 1].
        loss: Result of `corner_loss`.
    """
    return (images / (1 - loss[:, None, None] * _PROFILE)[:, None]).clamp(0, 1)


def corner_loss(images: Tensor) -> Tensor:
    """Fit the light of the border ring, which shows only background, by `a * (1 - loss * profile)`.

    The fit is least squares over the ring, where texture and gradient of the background average out.

    Returns:
        The loss [B], the share of the light that the corners lose.
    """
    profile, light = _PROFILE[RING], images.mean(1)[:, RING]
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
    ground = images[:, :, RING].median(dim=2).values[:, :, None, None]
    distance = (images - ground).square().sum(1).sqrt()
    # The top 5% of distances are object for any content; 0.4 of it is between ground texture and object texture.
    top = distance.flatten(1).quantile(0.95, dim=1)[:, None, None]
    return distance > (0.4 * top).clamp(min=0.06)


def _detail(images: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """Fit the renderer's texture to objects and background by least squares; return its strength [B]."""
    light = images.mean(1)
    residual, texture = torch.zeros_like(light), torch.zeros_like(light)
    for region, contrast, pattern in zip((inside, outside), TEXTURE_CONTRAST, _PATTERNS, strict=True):
        local = blurred(light, region)
        residual += region * (light - local)
        drawn = contrast * local * pattern
        texture += region * (drawn - blurred(drawn, region))
    return (texture * residual).sum((1, 2)) / texture.square().sum((1, 2)).clamp(min=1e-3)


def _hsv_saturation(images: Tensor) -> Tensor:
    top = images.amax(1)
    return (top - images.amin(1)) / top.clamp(min=1e-3)
