"""Grids of images with captions, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from srpo_ray.decode_image import decode_image
from srpo_ray.evaluation.captions import caption_lines
from srpo_ray.files import replacing

_GAP = 12
_LINE_HEIGHT = 18
_BASELINE = 14
"""Pixels from the top of a line to the baseline, in Pillow's default font of size 14."""
_CAPTION_LINES = 2
_INK, _PALE_INK, _PAPER = "#1f2328", "#6e7781", "#ffffff"
_SMALL, _LARGE = 192, 256
"""Widths in pixels: images are enlarged to about the first and reduced to at most the second."""


def image_grid(images: Tensor, captions: Sequence[str], columns: int, scale: float) -> Image.Image:
    """Arrange images in rows, each with its caption below, cut to two lines.

    Args:
        images: `[N, 3, H, W]` in [0, 1]; values outside are clipped.
        captions: N texts.
        columns: Images per row, at least 1.
        scale: Size factor; pixels stay sharp above 1 and are averaged below 1.

    Raises:
        ValueError: If shapes or counts do not fit.
    """
    _check(images, captions)
    if columns < 1:
        raise ValueError(f"expected columns >= 1, got {columns}")
    cells = [
        _captioned([image], caption, labels=None)
        for image, caption in zip(to_images(images, scale), captions, strict=True)
    ]
    return _tiled(cells, min(columns, len(cells)))


def before_after(before: Tensor, after: Tensor, prompts: Sequence[str]) -> Image.Image:
    """Arrange images of the base model and the tuned model side by side, labelled "base" and "tuned".

    A row has two pairs. Small images are enlarged without blur to about 192 pixels, large ones reduced to 256.

    Args:
        before: `[N, 3, H, W]` in [0, 1], from the base model.
        after: `[N, 3, H, W]` in [0, 1], from the tuned model with the same noise.
        prompts: N prompts.

    Raises:
        ValueError: If shapes or counts do not fit.
    """
    _check(before, prompts)
    if before.shape != after.shape:
        raise ValueError(
            f"expected as many images of one size before and after, got {list(before.shape)} and"
            f" {list(after.shape)}; draw both galleries from the same prompts"
        )
    width = before.shape[-1]
    scale = max(1, round(_SMALL / width)) if width <= _LARGE else _LARGE / width
    pairs = zip(to_images(before, scale), to_images(after, scale), prompts, strict=True)
    cells = [_captioned([base, tuned], prompt, labels=("base", "tuned")) for base, tuned, prompt in pairs]
    return _tiled(cells, min(2, len(cells)))


def method_grid(columns: Mapping[str, Tensor], prompts: Sequence[str], abreast: int = 1) -> Image.Image:
    """Arrange each prompt's images by several models side by side, under the models' names.

    Args:
        columns: Name of a model -> images `[N, 3, H, W]` in [0, 1], one per prompt.
        prompts: N prompts.
        abreast: Prompts per row, at least 1.

    Raises:
        ValueError: If shapes or counts do not fit.
    """
    for images in columns.values():
        _check(images, prompts)
    scales = {name: min(1.0, _LARGE / images.shape[-1]) for name, images in columns.items()}
    small = all(images.shape[-1] <= _SMALL for images in columns.values())
    drawn = [to_images(images, 2.0 if small else scales[name]) for name, images in columns.items()]
    rows = zip(*drawn, prompts, strict=True)
    cells = [_captioned(list(row), prompt, labels=tuple(columns)) for *row, prompt in rows]
    return _tiled(cells, min(abreast, len(cells)))


def save_png(image: Image.Image, path: Path, *, optimize: bool = True) -> Path:
    """Write a PNG file atomically, and return its path.

    Args:
        image: Image to write.
        path: File to write.
        optimize: Minimise the file size, which takes a second for a large image.
    """
    with replacing(path) as unfinished:
        image.save(unfinished, format="PNG", optimize=optimize)
    return path


def read_images(paths: Sequence[Path], width: int = _LARGE) -> Tensor:
    """Read images from N files of equal size, and reduce them to at most `width` pixels.

    Args:
        paths: Image files.
        width: Maximum width in pixels.

    Returns:
        `[N, 3, h, w]` in [0, 1].

    Raises:
        ValueError: If a file cannot be read, or its size differs from that of the first.
    """
    # Imported here, as it takes a second and a half, and a process that only writes grids does not need it.
    from torchvision.transforms.functional import to_tensor

    images: list[Tensor] = []
    for path in paths:
        try:
            image = decode_image(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ValueError(f"expected a readable image, got {path} ({error}); draw it again") from error
        if image.width > width:
            size = (width, round(image.height * width / image.width))
            image = image.resize(size, Image.Resampling.LANCZOS)
        images.append(to_tensor(image))
        if images[-1].shape != images[0].shape:
            raise ValueError(
                f"expected images of one size, got {list(images[0].shape[1:])} in {paths[0]} and"
                f" {list(images[-1].shape[1:])} in {path}; draw them again with one resolution"
            )
    return torch.stack(images)


def _check(images: Tensor, captions: Sequence[str]) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or len(images) != len(captions) or len(images) == 0:
        raise ValueError(
            f"expected images [N, 3, H, W] with N >= 1 and N captions, got {list(images.shape)} and"
            f" {len(captions)} captions; give one caption per image"
        )


def to_images(images: Tensor, scale: float = 1.0) -> list[Image.Image]:
    """Convert images `[N, 3, H, W]` in [0, 1] to PIL, enlarged by `scale`; pixels stay sharp above 1."""
    pixels = (images.detach().float().nan_to_num().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    size = (max(1, round(images.shape[3] * scale)), max(1, round(images.shape[2] * scale)))
    resampling = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return [Image.fromarray(array).resize(size, resampling) for array in pixels]


def _captioned(images: Sequence[Image.Image], caption: str, labels: Sequence[str] | None) -> Image.Image:
    """Arrange images side by side, with a label above each and one caption below."""
    gap = 4
    top = _LINE_HEIGHT + 2 if labels else 0
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    height = top + images[0].height + 4 + _CAPTION_LINES * _LINE_HEIGHT
    cell = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(cell)
    left = 0
    for index, image in enumerate(images):
        if labels:
            _write(draw, (left, 0), labels[index], image.width, 1, _PALE_INK)
        cell.paste(image, (left, top))
        left += image.width + gap
    _write(draw, (0, top + images[0].height + 4), caption, width, _CAPTION_LINES, _INK)
    return cell


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, width: int, most: int, ink: str) -> None:
    """Draw a text in at most `most` lines of `width` pixels, with its upper left corner at `place`."""
    lines, font = caption_lines(text, width, most)
    left, top = place
    for index, line in enumerate(lines):
        # Draw all fonts on the baseline of Pillow's default font, as taller fonts would reach into the next line.
        draw.text((left, top + index * _LINE_HEIGHT + _BASELINE), line, fill=ink, font=font, anchor="ls")


def _tiled(cells: Sequence[Image.Image], columns: int) -> Image.Image:
    rows = -(-len(cells) // columns)
    width, height = cells[0].width + _GAP, cells[0].height + _GAP
    page = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), _PAPER)
    for index, cell in enumerate(cells):
        page.paste(cell, (_GAP + index % columns * width, _GAP + index // columns * height))
    return page
