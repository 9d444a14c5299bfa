"""Every kind of image file is decoded to the colours that it shows, or refused."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from srpo_ray.decode_image import decode_image

# Colorants of Display P3 and of sRGB, adapted to D50 as profiles have them, and the white point of D50.
P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
D50 = np.array([0.9642, 1.0, 0.8249])


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(content: bytes) -> np.ndarray:
    decoded = decode_image(content)
    assert decoded.mode == "RGB"
    return np.asarray(decoded)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_row(depth: int, color_type: int, width: int, row: bytes, transparent: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, 1, depth, color_type, 0, 0, 0)
    data = chunk(b"tRNS", transparent) + chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_ordinary_pixels_keep_their_bits(kind: str) -> None:
    array = noise(9, 7, 3)
    image = Image.fromarray(array)
    if kind == "GIF":
        image = image.quantize(63)
        array = np.asarray(image.convert("RGB"))
    assert np.array_equal(pixels(saved(image, kind, **({"lossless": True} if kind == "WEBP" else {}))), array)


def test_jpeg_pixels_are_those_of_pillow() -> None:
    content = saved(Image.fromarray(noise(16, 16, 3)), "JPEG")
    assert np.array_equal(pixels(content), np.asarray(Image.open(io.BytesIO(content))))


def test_16_bit_grey_is_scaled_to_8_bits() -> None:
    exact = np.arange(256, dtype=np.uint16)[None] * 257
    assert np.array_equal(pixels(saved(Image.fromarray(exact)))[0, :, 1], np.arange(256))
    ramp = np.linspace(0, 65535, 1000).astype(np.uint16)[None]
    assert abs(pixels(saved(Image.fromarray(ramp)))[..., 0] - ramp / 257).max() < 1
    assert np.array_equal(pixels(saved(Image.fromarray(exact), "TIFF"))[0, :, 0], np.arange(256))
    big_endian = Image.frombytes("I;16B", (256, 1), exact.astype(">u2").tobytes())
    assert np.array_equal(pixels(saved(big_endian, "TIFF"))[0, :, 2], np.arange(256))


def test_values_of_unknown_range_are_refused() -> None:
    with pytest.raises(ValueError, match="floating-point numbers, for which black and white are not defined"):
        decode_image(saved(Image.new("F", (4, 4), 0.5), "TIFF"))
    with pytest.raises(ValueError, match="32-bit integers"):
        decode_image(saved(Image.new("I", (4, 4), 70_000), "TIFF"))
    white_is_zero = ImageFileDirectory_v2()
    white_is_zero[262] = 0
    grey = saved(Image.fromarray(np.zeros((4, 4), np.uint16)), "TIFF", tiffinfo=white_is_zero)
    place = grey.index(struct.pack("<HHI", 262, 3, 1)) + 8
    grey = grey[:place] + struct.pack("<H", 0) + grey[place + 2 :]
    with pytest.raises(ValueError, match="white as zero"):
        decode_image(grey)


def blended(colors: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours over white, on the stored values."""
    share = alpha[..., None] / 255
    return colors * share + 255 * (1 - share)


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGBA"), ("PNG", "LA"), ("WEBP", "RGBA"), ("TIFF", "RGBA")])
def test_transparency_shows_white_and_never_the_colours_below(kind: str, mode: str) -> None:
    array = noise(8, 8, len(mode))
    array[:4, :, -1] = 0
    array[4, :, -1] = 255
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    found = pixels(saved(Image.fromarray(array, mode), kind, **options))
    assert (found[:4] == 255).all()
    colors = np.broadcast_to(array[..., :-1], (8, 8, 3))
    assert np.array_equal(found[4], colors[4])
    assert abs(found - blended(colors, array[..., -1])).max() <= 0.51


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_entry_of_a_palette_is_white(kind: str) -> None:
    image = Image.new("P", (4, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1, 0, 1])
    found = pixels(saved(image, kind, transparency=1))
    assert found[0].tolist() == [[10, 20, 30], [255] * 3, [10, 20, 30], [255] * 3]
    if kind == "PNG":
        half = pixels(saved(image, kind, transparency=bytes([255, 128])))
        assert abs(half[0, 1] - blended(np.array([[200, 100, 50]]), np.array([128]))[0]).max() <= 0.51


@pytest.mark.parametrize(
    ("depth", "row", "transparent", "shown"),
    [
        (1, bytes([0b01000000]), 1, [0, 255]),
        (2, bytes([0b10110000]), 2, [255, 255]),
        (4, bytes([0x73]), 7, [255, 51]),
        (8, bytes([7, 119]), 7, [255, 119]),
        # Values that differ in the lower 8 bits are different colours.
        (16, struct.pack(">2H", 0x0A01, 0x0A02), 0x0A01, [255, 10]),
    ],
)
def test_transparent_grey_value_is_compared_in_its_own_bits(
    depth: int, row: bytes, transparent: int, shown: list[int]
) -> None:
    found = pixels(png_row(depth, 0, 2, row, struct.pack(">H", transparent)))
    assert found[0].tolist() == [[value] * 3 for value in shown]


def test_transparent_colour_is_white_and_refused_where_it_cannot_be_compared() -> None:
    key = struct.pack(">3H", 1, 2, 3)
    assert pixels(png_row(8, 2, 2, bytes([1, 2, 3, 1, 2, 4]), key))[0].tolist() == [[255] * 3, [1, 2, 4]]
    with pytest.raises(ValueError, match="one transparent colour beside 16-bit colours"):
        decode_image(png_row(16, 2, 1, struct.pack(">3H", 1, 2, 3), key))


def test_other_modes_are_converted_to_their_colours() -> None:
    assert pixels(saved(Image.new("1", (1, 1), 1)))[0, 0].tolist() == [255] * 3
    assert pixels(saved(Image.new("L", (1, 1), 77)))[0, 0].tolist() == [77] * 3
    inks = {(0, 0, 0, 0): (255, 255, 255), (0, 0, 0, 255): (0, 0, 0), (255, 0, 0, 0): (0, 255, 255)}
    for ink, color in inks.items():
        for kind in ("TIFF", "JPEG"):
            shown = pixels(saved(Image.new("CMYK", (8, 8), ink), kind))
            assert abs(shown[4, 4].astype(int) - color).max() <= 2, (kind, ink)
    # sRGB's red and a middle grey in CIELAB of D50, a and b in signed bytes, as TIFF has them.
    for lab, color in {(54.3, 81, 70): (255, 0, 0), (53.6, 0, 0): (128, 128, 128)}.items():
        image = Image.frombytes("LAB", (1, 1), bytes([round(lab[0] * 2.55), *lab[1:]]))
        assert abs(pixels(saved(image, "TIFF"))[0, 0].astype(int) - color).max() <= 6


def profile(space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of version 2."""
    place, table, body = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        content += b"\0" * (-len(content) % 4)
        table += struct.pack(">4sII", name, place + len(body), len(content))
        body += content
    header = struct.pack(">I4sI4s4s4s12x4s", place + len(body), b"", 0x02400000, b"mntr", space, connection, b"acsp")
    return (header + b"\0" * 28 + numbers(D50)).ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def numbers(values: np.ndarray) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def matrix_profile(colorants: np.ndarray, curve: bytes) -> bytes:
    tags = {b"wtpt": b"XYZ \0\0\0\0" + numbers(D50)}
    for name, column in zip((b"r", b"g", b"b"), colorants.T, strict=True):
        tags[name + b"XYZ"] = b"XYZ \0\0\0\0" + numbers(column)
        tags[name + b"TRC"] = curve
    return profile(b"RGB ", b"XYZ ", tags)


def curve(values: np.ndarray) -> bytes:
    """A tone curve: a table from 0 to 1, or one number that is a power."""
    scaled = values * 256 if len(values) == 1 else values * 65535
    return struct.pack(f">4s4xI{len(values)}H", b"curv", len(values), *scaled.round().astype(int))


def encoded(linear: np.ndarray) -> np.ndarray:
    """sRGB's values in [0, 255] of linear light."""
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def linear(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_of_a_wide_gamut_are_converted(mode: str) -> None:
    # In the range that sRGB has.
    array = 80 + noise(6, 6, 3) // 4
    image = Image.fromarray(array).convert(mode)
    if mode == "P":
        array = np.asarray(image.convert("RGB"))
    found = pixels(saved(image, icc_profile=matrix_profile(P3, curve(np.array([2.0])))))
    expected = encoded((array / 255) ** 2 @ P3.T @ np.linalg.inv(SRGB).T)
    assert abs(found - expected).max() < 2
    assert abs(found - array.astype(float)).max() > 10


def test_profile_of_srgb_does_not_change_the_pixels() -> None:
    table = linear(np.linspace(0, 1, 1024))
    array = noise(40, 40, 3)
    content = saved(Image.fromarray(array), icc_profile=matrix_profile(SRGB, curve(table)))
    assert np.array_equal(pixels(content), array)


def test_grey_profile_of_linear_light_is_converted() -> None:
    grey = profile(b"GRAY", b"XYZ ", {b"wtpt": b"XYZ \0\0\0\0" + numbers(D50), b"kTRC": curve(np.array([1.0]))})
    array = np.arange(256, dtype=np.uint8)[None]
    expected = encoded(array / 255)[..., None]
    assert abs(pixels(saved(Image.fromarray(array), icc_profile=grey)) - expected).max() < 2
    deep = Image.fromarray(array.astype(np.uint16) * 257)
    assert abs(pixels(saved(deep, icc_profile=grey)) - expected).max() < 2
    # A profile of colour belongs to grey pixels too, one of grey not to colours.
    colors = np.broadcast_to(array[..., None], (1, 256, 3))
    wide = matrix_profile(P3, curve(np.array([1.0])))
    assert abs(pixels(saved(Image.fromarray(array), icc_profile=wide)) - expected).max() < 2
    assert np.array_equal(pixels(saved(Image.fromarray(colors), icc_profile=grey)), colors)


def test_inks_are_converted_by_their_profile() -> None:
    # Two points per ink: all that have cyan are sRGB's red, the others white.
    red = [round(54.3 * 255 / 100), 81 + 128, 70 + 128]
    corners = [red if corner & 8 else [255, 128, 128] for corner in range(16)]
    identity = bytes(range(256))
    lut = struct.pack(">4s4xBBBx", b"mft1", 4, 3, 2) + numbers(np.eye(3).ravel()) + identity * 4
    lut += bytes(value for corner in corners for value in corner) + identity * 3
    inks = profile(b"CMYK", b"Lab ", {b"wtpt": b"XYZ \0\0\0\0" + numbers(D50), b"A2B0": lut})
    for ink, color in {(255, 0, 0, 0): (255, 0, 0), (0, 255, 0, 0): (255, 255, 255)}.items():
        for kind in ("JPEG", "TIFF"):
            found = pixels(saved(Image.new("CMYK", (8, 8), ink), kind, icc_profile=inks))
            assert abs(found[4, 4].astype(int) - color).max() <= 6, (kind, ink)


@pytest.mark.parametrize("damage", [b"no profile", matrix_profile(P3, b"curv")[:200], profile(b"RGB ", b"XYZ ", {})])
def test_damaged_profile_does_not_change_the_pixels(damage: bytes) -> None:
    array = noise(8, 8, 3)
    assert np.array_equal(pixels(saved(Image.fromarray(array), icc_profile=damage)), array)


TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_camera_orientation_is_undone(orientation: int, kind: str) -> None:
    array = noise(3, 5, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(Image.fromarray(array), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(pixels(content), TURNED[orientation](array))


def test_damaged_exif_does_not_change_the_pixels_and_its_readable_part_is_used() -> None:
    array = noise(4, 6, 3)
    image = Image.fromarray(array)
    begin = b"Exif\0\0MM\0*\0\0\0\x08"
    # A resolution of a type that only text has, which Pillow cannot write again, behind a whole orientation.
    entries = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack(">HHI4s", 0x011A, 2, 4, b"abc\0")
    for damage in (b"", b"MM", begin, begin + b"\xff\xff", begin + b"\0\x09" + entries[:12] + b"\xff" * 5):
        assert pixels(saved(image, exif=damage)).size == array.size
    for kind in ("PNG", "JPEG"):
        turned = pixels(saved(image, kind, exif=begin + b"\0\x02" + entries + b"\0\0\0\0"))
        assert turned.shape == (6, 4, 3)
    assert np.array_equal(
        pixels(saved(image, exif=begin + b"\0\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, 9, 0))), array
    )


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "TIFF"])
def test_first_frame_is_decoded(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert (pixels(content) == (255, 0, 0)).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_truncated_file_is_refused(kind: str) -> None:
    content = saved(Image.fromarray(noise(64, 64, 3)), kind)
    for end in (0, 3, 40, len(content) // 2, len(content) * 3 // 4):
        with pytest.raises(ValueError, match=r"."):
            decode_image(content[:end])


def test_huge_image_and_other_format_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="none of the formats JPEG, PNG"):
        decode_image(saved(Image.new("RGB", (4, 4)), "PPM"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"400 pixels.* exceeds limit of 200"):
        decode_image(saved(Image.new("RGB", (20, 20))))
