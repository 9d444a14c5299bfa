"""Preprocessing of images to the pixels that a reward model was trained on.

The *differentiable* preprocessing, for training, resizes the floating-point image with torch. The *official* one
reproduces the preprocessing of image files in the models' releases. CLIP, PickScore, ImageReward and the aesthetic
predictors resize the 8-bit image with PIL, which rounds and clamps after each of its two passes. HPSv2 converts the
8-bit image to a floating-point tensor and resizes that. docs/rewards.md quantifies the differences.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

from srpo_ray.rewards.input_spec import InputSpec


def frame(images: Tensor, input_spec: InputSpec) -> Tensor:
    """Resize images to a model's square by a differentiable bicubic filter.

    Some bicubic weights are negative, so values overshoot [0, 1] at hard edges: by at most 0.31 with antialiasing,
    0.45 without. They are not clamped, as in the releases of SRPO and HPSv2, because a clamp would set the gradient
    there to zero. The result agrees with PIL's bicubic filter on floating-point images to about 1e-6.

    Args:
        images: `[B, 3, H, W]` in [0, 1], float32 or float64.
        input_spec: Side of the square, antialiasing, and the treatment of an image that is not square: crop the long
            side at both ends (`crop`), pad the short side with black (`pad`), or stretch (`squash`).

    Returns:
        `[B, 3, size, size]` of the same type; in [0, 1] except for the overshoot. Images of the right size are returned
        unchanged.

    Raises:
        ValueError: If `images` is not a batch of colour images or the size is not positive.
    """
    _check(images, input_spec)
    height, width = images.shape[2:]
    if height == width == input_spec.size:
        return images
    shape = input_spec.shape(height, width)
    resized = interpolate(images, size=shape, mode="bicubic", antialias=input_spec.antialias, align_corners=False)
    top, left = (input_spec.offset(length) for length in shape)
    bottom, right = input_spec.size - shape[0] - top, input_spec.size - shape[1] - left
    # A negative padding crops.
    return pad(resized, (left, right, top, bottom))


def frame_officially(images: Tensor, input_spec: InputSpec) -> Tensor:
    """Resize images to a model's square as its release does with image files.

    `crop` and `squash` resize the 8-bit image with PIL's bicubic filter, as CLIP, PickScore, ImageReward and SigLIP
    do. `pad` resizes the float tensor of the 8-bit image without clamping or rounding again, as HPSv2 does.

    Args:
        images: `[B, 3, H, W]` in [0, 1], any floating type; rounded to 8 bits as when they are saved.
        input_spec: As in `frame`.

    Returns:
        `[B, 3, size, size]` float32 on the device of `images`, without gradient; multiples of 1/255 in [0, 1], or
        for `pad` any values in the range of `frame`.

    Raises:
        ValueError: As `frame`.
    """
    _check(images, input_spec)
    steps = (images.detach().float().clamp(0, 1) * 255).round().byte()
    if input_spec.fit == "pad":
        return frame(steps.float() / 255, input_spec)
    arrays = steps.permute(0, 2, 3, 1).cpu().numpy()
    squares = np.stack([_square(Image.fromarray(array), input_spec) for array in arrays])
    return torch.from_numpy(squares).permute(0, 3, 1, 2).to(images.device).float() / 255


def _square(source: Image.Image, input_spec: InputSpec) -> np.ndarray:
    height, width = input_spec.shape(source.height, source.width)
    resized = source.resize((width, height), Image.Resampling.BICUBIC)
    square = Image.new("RGB", (input_spec.size, input_spec.size))
    square.paste(resized, (input_spec.offset(width), input_spec.offset(height)))
    return np.asarray(square)


def _check(images: Tensor, input_spec: InputSpec) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or input_spec.size < 1:
        raise ValueError(
            f"expected images [B, 3, H, W] and a size of at least 1, received {tuple(images.shape)} and "
            f"{input_spec.size}; add the batch dimension or convert grey images to RGB"
        )


def frame_for_each(
    images: Tensor, input_specs: Iterable[InputSpec], *, official: bool = False
) -> dict[InputSpec, Tensor]:
    """Preprocess images for several reward models.

    Args:
        images: `[B, 3, H, W]` in [0, 1], any floating type.
        input_specs: Input specs of the models; repeated ones are computed once.
        official: Use `frame_officially`; otherwise `frame`, in float32 or float64.

    Returns:
        Per input spec `[B, 3, size, size]`, smallest size first.

    Raises:
        ValueError: As `frame`.
    """
    ordered = sorted(set(input_specs))
    if official:
        return {input_spec: frame_officially(images, input_spec) for input_spec in ordered}
    precise = images if images.dtype == torch.float64 else images.float()
    return {input_spec: frame(precise, input_spec) for input_spec in ordered}


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Shift and scale each colour channel: `(images - mean) / std`.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        mean: Three channel means of the model's training images, in [0, 1].
        std: Three channel standard deviations, above 0.
    """
    shape = (1, 3, 1, 1)
    return (images - images.new_tensor(mean).view(shape)) / images.new_tensor(std).view(shape)
