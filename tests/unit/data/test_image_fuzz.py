"""Damaged sources give images or an error that names the file, never another exception."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from srpo_ray.data.images import load_images

bounded = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 24, 4), dtype=np.uint8)
FLIPS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4)
CUT = st.floats(0, 1)


def image_file(kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "camera", 72.0
    image = Image.fromarray(PIXELS).convert("RGB" if kind == "JPEG" else "P" if kind == "GIF" else "RGBA")
    buffer = io.BytesIO()
    image.save(buffer, kind, **({} if kind in ("GIF", "BMP") else {"exif": exif}))
    return buffer.getvalue()


def damaged(content: bytes, flips: list[tuple[float, int]], cut: float) -> bytes:
    """Change some bytes, most of them in the headers near the beginning, and truncate the end."""
    changed = bytearray(content)
    for place, mask in flips:
        changed[int(place**3 * len(content))] ^= mask
    return bytes(changed[: len(content) if cut > 0.5 else int(2 * cut * len(content))])


def assert_images_or_a_named_error(path: Path) -> None:
    try:
        images = load_images(str(path))
        found = images.load(range(len(images.captions)), 8)
    except ValueError as error:
        named = str(path.with_suffix("")) in str(error)
    else:
        named = found.shape[1:] == (3, 8, 8) and bool(torch.isfinite(found).all())
    assert named


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"])
def test_damaged_image_is_read_or_named(tmp_path: Path, kind: str) -> None:
    path, content = tmp_path / "a.png", image_file(kind)
    path.with_suffix(".txt").write_text("a caption")

    @bounded
    @given(FLIPS, CUT)
    def check(flips: list[tuple[float, int]], cut: float) -> None:
        path.write_bytes(damaged(content, flips, cut))
        assert_images_or_a_named_error(path)

    check()


@bounded
@given(content=st.binary(max_size=2000), suffix=st.sampled_from([".png", ".tar", ".parquet"]))
def test_random_bytes_are_read_or_named(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.with_suffix(".txt").write_text("a caption")
    path.write_bytes(content)
    assert_images_or_a_named_error(path)


@bounded
@given(content=st.binary(max_size=200), suffix=st.sampled_from([".txt", ".json"]))
def test_random_captions_are_read_or_named(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(image_file("PNG"))
    for caption in (".txt", ".json"):
        path.with_suffix(caption).unlink(missing_ok=True)
    path.with_suffix(suffix).write_bytes(content)
    assert_images_or_a_named_error(path)


@bounded
@given(FLIPS, CUT)
def test_damaged_tar_file_is_read_or_named(tmp_path: Path, flips: list[tuple[float, int]], cut: float) -> None:
    path, buffer = tmp_path / "a.tar", io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in (("0.png", image_file("PNG")), ("0.txt", b"one"), ("0" * 120 + ".cls", b"two")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    path.write_bytes(damaged(buffer.getvalue(), flips, cut))
    assert_images_or_a_named_error(path)


@bounded
@given(FLIPS, CUT)
def test_damaged_table_is_read_or_named(tmp_path: Path, flips: list[tuple[float, int]], cut: float) -> None:
    path, buffer = tmp_path / "a.parquet", io.BytesIO()
    table = pyarrow.table({"image": [image_file("JPEG")] * 3, "caption": ["one", "two", "three"]})
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    content = damaged(buffer.getvalue(), flips, cut)
    # The structure of a table stands at its end.
    path.write_bytes(content if cut < 0.75 else damaged(buffer.getvalue()[::-1], flips, 1)[::-1])
    assert_images_or_a_named_error(path)
