"""Decoding of image files to 8-bit sRGB, with the same rules for all formats and all readers of the project."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError, features
from PIL.TiffImagePlugin import TiffImageFile

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
# Pillow supports more, including formats that start other programs (EPS) or have no pixels (WMF).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", *(["AVIF"] if features.check("avif") else []))

# Pillow validates the pixels of a damaged file, but parses most headers and metadata without checks. It therefore
# raises the errors of its own arithmetic, unpacking and look-ups.
_DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Image.DecompressionBombError,
    struct.error,
    zlib.error,
)
_BAD_PROFILE = (OSError, TypeError, ValueError, ImageCms.PyCMSError)
_PROFILE_MODES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK", "Lab": "LAB"}
_LEVELS = np.linspace(0, 255, 9).round().astype(np.uint8)
_SAMPLE_COLORS = Image.fromarray(np.stack(np.meshgrid(_LEVELS, _LEVELS, _LEVELS), axis=-1).reshape(27, 27, 3))
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(content: bytes) -> Image.Image:
    """Decode the first frame of an image file, upright, with transparent pixels blended over white.

    Of 16 bits per channel, the upper 8 are used. Colours are converted to sRGB by the embedded ICC profile. Without a
    profile, or with a damaged one, the values are treated as sRGB (CMYK by Pillow's formula).

    Args:
        content: Content of a JPEG, PNG, WebP, BMP, GIF, TIFF or AVIF file.

    Returns:
        Image of mode RGB.

    Raises:
        ValueError: If the file is damaged, has another format, more pixels than Pillow's limit (178 million), or values
            of unknown range (32-bit integers, floats).
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as opened:
            return _decoded(opened)
    except UnidentifiedImageError as error:
        raise ValueError(f"none of the formats {', '.join(_FORMATS)}, or its beginning is damaged") from error
    except _DAMAGE as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _decoded(opened: Image.Image) -> Image.Image:
    # `load` removes the names of the stored layout.
    layout = _stored_layout(opened)
    _require_known_range(opened, layout)
    opened.load()
    if 0 in opened.size:
        raise ValueError(f"no pixels, its size is {opened.width} x {opened.height}")
    colors, alpha = _colors_and_alpha(opened, layout)
    image = _to_srgb(colors, opened.info.get("icc_profile"))
    if alpha is not None:
        # Blended before any resize, so that the colours of transparent pixels do not affect their neighbours.
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=alpha)
        image = white
    turn = _TURNS.get(_orientation(opened))
    return image if turn is None else image.transpose(turn)


def _stored_layout(opened: Image.Image) -> str:
    """Pillow's name of the layout of the stored pixels, such as `RGB;16B`; empty if the format has none."""
    tiles = getattr(opened, "tile", [])
    layout = tiles[0][3] if tiles else ""
    return layout if isinstance(layout, str) else ""


def _require_known_range(opened: Image.Image, layout: str) -> None:
    mode = opened.mode
    if mode in ("I", "F"):
        kind = "32-bit integers" if mode == "I" else "floating-point numbers"
        raise ValueError(f"{kind}, for which black and white are not defined; save it with 8 or 16 bits per channel")
    if mode.startswith("I;16") and isinstance(opened, TiffImageFile):
        bits, black_is_zero = opened.tag_v2.get(258), opened.tag_v2.get(262) == 1
        if bits != (16,) or not black_is_zero:
            raise ValueError("grey values of 12 bits, or with white as zero; save it with 16 bits and black as zero")
    if layout == "RGB;16B" and "transparency" in opened.info:
        # Pillow keeps 8 bits of the colours but 16 of the transparent colour, so the two cannot be compared.
        raise ValueError("one transparent colour beside 16-bit colours; save it with an alpha channel")


def _colors_and_alpha(opened: Image.Image, layout: str) -> tuple[Image.Image, Image.Image | None]:
    """Return the colours in mode L, RGB, CMYK or LAB, and the alpha channel in mode L if there is one."""
    mode, transparent = opened.mode, opened.info.get("transparency")
    if mode.startswith("I;16") or (mode == "L" and isinstance(transparent, int)):
        return _grey_and_alpha(opened, layout, transparent)
    if opened.has_transparency_data:
        grey = mode in ("1", "LA", "La")
        full = opened.convert("LA" if grey else "RGBA")
        return full.convert("L" if grey else "RGB"), full.getchannel("A")
    if mode == "1":
        return opened.convert("L"), None
    return (opened if mode in _PROFILE_MODES.values() else opened.convert("RGB")), None


def _grey_and_alpha(
    opened: Image.Image, layout: str, transparent: int | None
) -> tuple[Image.Image, Image.Image | None]:
    values = np.asarray(opened)
    grey = Image.fromarray(values if opened.mode == "L" else (values >> 8).astype(np.uint8))
    if transparent is None:
        return grey, None
    # Pillow scales values of 2 and 4 bits to 8, but not the transparent value.
    stretched = transparent * {"L;2": 85, "L;4": 17}.get(layout, 1)
    return grey, Image.fromarray(np.where(values == stretched, 0, 255).astype(np.uint8))


def _to_srgb(colors: Image.Image, profile: object) -> Image.Image:
    if isinstance(profile, bytes) and profile:
        try:
            converted = _by_profile(colors, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
        except _BAD_PROFILE:
            converted = None
        if converted is not None:
            return converted
    if colors.mode == "LAB":
        return _applied(_transform(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "LAB"), colors)
    return colors.convert("RGB")


def _by_profile(colors: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image | None:
    """Convert colours to sRGB; None if the profile is for other channels, or is itself sRGB."""
    mode = _PROFILE_MODES.get(getattr(profile.profile, "xcolor_space", "").strip())
    if mode == "RGB" and colors.mode == "L":
        colors = colors.convert("RGB")
    if mode is None or colors.mode != mode:
        return None
    transform = _transform(profile, mode)
    if mode in ("L", "RGB"):
        # Profiles of sRGB differ only by rounding; with them the stored pixels are kept.
        sample = _SAMPLE_COLORS.convert(mode)
        change = np.asarray(_applied(transform, sample), int) - np.asarray(sample.convert("RGB"), int)
        if abs(change).max() <= 1:
            return None
    return _applied(transform, colors)


def _transform(profile: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    """Build the transform to sRGB that preserves the colours inside sRGB and maps black to black."""
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
    if mode == "L":
        # The optimised transform interpolates between few grey levels, with errors of up to 10 of 255 in the shadows.
        flags |= ImageCms.Flags.NOOPTIMIZE
    intent, srgb = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(profile, srgb, mode, "RGB", intent, flags)


def _applied(transform: ImageCms.ImageCmsTransform, colors: Image.Image) -> Image.Image:
    converted = ImageCms.applyTransform(colors, transform)
    assert converted is not None, "only an in-place transform returns None"
    return converted


def _orientation(opened: Image.Image) -> int:
    """EXIF orientation; 1 (upright) if it cannot be read, since the pixels are valid nevertheless."""
    try:
        orientation = opened.getexif().get(_ORIENTATION, 1)
    except _DAMAGE:
        return 1
    return orientation if isinstance(orientation, int) else 1
