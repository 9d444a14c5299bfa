"""From a decoded picture to the pixels that a reward model was trained on.

Two ways lead there. The *differentiable* one, for training, resizes the floating-point picture with torch. The
*official* one does what the models' own releases do with picture files: round to 8 bits and resize with PIL, which
rounds and clamps after each of its two passes. docs/rewards.md says how far the two differ.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

from srpo_ray.rewards.framing import Framing


def frame(images: Tensor, framing: Framing) -> Tensor:
    """Bring pictures to a model's square, differentiably: bicubic, antialiased.

    Bicubic overshoots at edges, so the result is clamped; there the gradient is zero, as for a picture that
    is clamped before it is saved. Agrees with PIL's bicubic to about 1e-6 on float images.

    Args:
        images: `[B, 3, H, W]` in [0, 1], float32 or float64.
        framing: Side of the square, and what becomes of a picture that is none: its long side is cut at both ends
            (`crop`), its short side filled with black (`pad`), or it is squashed.

    Returns:
        `[B, 3, size, size]` in [0, 1], of the same type.

    Raises:
        ValueError: If `images` is not a batch of colour pictures or the size is not positive.
    """
    _check(images, framing)
    height, width = images.shape[2:]
    if height == width == framing.size:
        return images.clamp(0, 1)
    shape = framing.shape(height, width)
    resized = interpolate(images, size=shape, mode="bicubic", antialias=True, align_corners=False)
    top, left = (framing.offset(length) for length in shape)
    bottom, right = framing.size - shape[0] - top, framing.size - shape[1] - left
    # A negative width of the padding cuts off as much.
    return pad(resized, (left, right, top, bottom)).clamp(0, 1)


def frame_officially(images: Tensor, framing: Framing) -> Tensor:
    """Bring pictures to a model's square as its own release does, from 8-bit pictures with PIL's bicubic resize.

    Args:
        images: `[B, 3, H, W]` in [0, 1], any floating type; rounded to 8 bits as when they are saved.
        framing: As in `frame`.

    Returns:
        `[B, 3, size, size]` float32, multiples of 1/255 in [0, 1], on the device of `images`, without gradient.

    Raises:
        ValueError: As `frame`.
    """
    _check(images, framing)
    steps = (images.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    squares = np.stack([_square(Image.fromarray(picture), framing) for picture in steps])
    return torch.from_numpy(squares).permute(0, 3, 1, 2).to(images.device).float() / 255


def _square(picture: Image.Image, framing: Framing) -> np.ndarray:
    height, width = framing.shape(picture.height, picture.width)
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    square = Image.new("RGB", (framing.size, framing.size))
    square.paste(resized, (framing.offset(width), framing.offset(height)))
    return np.asarray(square)


def _check(images: Tensor, framing: Framing) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or framing.size < 1:
        raise ValueError(
            f"expected images [B, 3, H, W] and a size of at least 1, received {tuple(images.shape)} and "
            f"{framing.size}; add the batch dimension or convert grey pictures to RGB"
        )


def frame_for_each(images: Tensor, framings: Iterable[Framing], *, official: bool = False) -> dict[Framing, Tensor]:
    """The pixels that each of several reward models asks for.

    Args:
        images: `[B, 3, H, W]` in [0, 1], any floating type.
        framings: What the models want; repeated ones are computed once.
        official: Use `frame_officially`; otherwise `frame`, in float32 or better.

    Returns:
        Per framing `[B, 3, size, size]`, smallest size first.

    Raises:
        ValueError: As `frame`.
    """
    ordered = sorted(set(framings))
    if official:
        return {framing: frame_officially(images, framing) for framing in ordered}
    precise = images if images.dtype == torch.float64 else images.float()
    return {framing: frame(precise, framing) for framing in ordered}


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Shift and scale each colour channel: `(images - mean) / std`.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        mean: Three channel means of the model's training pictures, in [0, 1].
        std: Three channel deviations, above 0.
    """
    shape = (1, 3, 1, 1)
    return (images - images.new_tensor(mean).view(shape)) / images.new_tensor(std).view(shape)
