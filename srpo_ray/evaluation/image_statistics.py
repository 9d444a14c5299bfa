"""Statistics of an image's pixels; they change first when a reward is hacked."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, pad

THUMBNAIL = 32
"""Side of a thumbnail in pixels."""
_RED, _GREEN, _BLUE = 0.2126, 0.7152, 0.0722
"""Share of each channel in luma (ITU-R BT.709)."""


@torch.no_grad()
def image_statistics(images: Tensor) -> dict[str, Tensor]:
    """Compute the statistics of images.

    Args:
        images: `[B, 3, H, W]` in [0, 1], any float type and device.

    Returns:
        Tensors `[B]`, float32, on the device of `images`:
        `saturation`: mean HSV saturation, in [0, 1]; black pixels count as 0.
        `contrast`: standard deviation of luma, in [0, 0.5].
        `brightness`: mean luma, in [0, 1].
        `high_frequency`: mean square of luma minus its 3x3 box blur, in [0, 1]; texture and noise raise it.
        `color_cast`: distance of the mean colour from gray in the CbCr plane, in [0, 0.6].

    Raises:
        ValueError: For another shape.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"expected images [B, 3, H, W], got {list(images.shape)}; stack images of three channels")
    images = images.float()
    highest, lowest = images.amax(1), images.amin(1)
    luma = _luma(images)
    return {
        "saturation": ((highest - lowest) / highest.clamp(min=1e-6)).mean((1, 2)),
        "contrast": luma.std((1, 2), correction=0),
        "brightness": luma.mean((1, 2)),
        "high_frequency": (luma - _box_blur(luma)).square().mean((1, 2)),
        "color_cast": _chroma(images.mean((2, 3), keepdim=True)).norm(dim=1),
    }


@torch.no_grad()
def thumbnails(images: Tensor) -> Tensor:
    """Average images `[B, 3, H, W]` down to `[B, 3, 32, 32]`, float16, on the CPU: enough for `seed_diversity`."""
    return adaptive_avg_pool2d(images.float(), THUMBNAIL).half().cpu()


@torch.no_grad()
def seed_diversity(images: Tensor) -> Tensor:
    """Compute the mean absolute pixel difference of each image from the others of its prompt.

    The mean over a prompt's images is the mean over its pairs; 0 if all seeds give the same image. On thumbnails the
    difference covers composition and colour, not texture. The small world's `truth.diversity` is a different number:
    the root mean square at full resolution.

    Args:
        images: `[S, P, 3, H, W]` in [0, 1], S >= 2 images for each of P prompts.

    Returns:
        `[S, P]` in [0, 1], float32.

    Raises:
        ValueError: For another shape or fewer than two images per prompt.
    """
    if images.ndim != 5 or len(images) < 2:
        raise ValueError(
            f"expected images [S >= 2, P, 3, H, W], got {list(images.shape)}; sample two or more per prompt"
        )
    images = images.float()
    # The image's distance from itself is 0, so the sum has S - 1 terms.
    distances = [(images - image).abs().mean((2, 3, 4)).sum(0) for image in images]
    return torch.stack(distances) / (len(images) - 1)


@torch.no_grad()
def drift(base: Mapping[int, Tensor], tuned: Mapping[int, Tensor]) -> float:
    """Compute the distance of the tuned model from the base model: the root mean square change of an image's pixels.

    It is the mean over images of the same prompts and noise, at full resolution: 0 for the base model itself.

    Args:
        base: Prompt index -> image `[3, H, W]` in [0, 1] of the base model.
        tuned: The same of the tuned model.

    Returns:
        Mean in [0, 1].
    """
    changes = [(image.float() - base[prompt].float()).square().mean().sqrt() for prompt, image in tuned.items()]
    return torch.stack(changes).mean().item()


def _luma(images: Tensor) -> Tensor:
    return _RED * images[:, 0] + _GREEN * images[:, 1] + _BLUE * images[:, 2]


def _chroma(images: Tensor) -> Tensor:
    """Compute Cb and Cr `[B, 2]` of one-pixel images, each in [-0.5, 0.5]."""
    luma = _luma(images)
    blue = (images[:, 2] - luma) / (2 * (1 - _BLUE))
    red = (images[:, 0] - luma) / (2 * (1 - _RED))
    return torch.stack([blue, red], dim=1).flatten(1)


def _box_blur(luma: Tensor) -> Tensor:
    # Edge pixels are repeated outwards, so a flat image has no energy at its border.
    padded = pad(luma[:, None], (1, 1, 1, 1), mode="replicate")
    return avg_pool2d(padded, kernel_size=3, stride=1)[:, 0]
