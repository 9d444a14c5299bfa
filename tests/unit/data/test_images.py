import gzip
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from srpo_ray.data.cache.latents import LatentCache
from srpo_ray.data.images import load_images
from srpo_ray.models.flux import FluxPolicy
from srpo_ray.models.loading import load_vae
from srpo_ray.models.paths import resolve_path
from srpo_ray.small_world.truth import measure


def save(folder: Path, name: str, size: tuple[int, int], color: tuple[int, int, int], caption: str | None) -> None:
    Image.new("RGB", size, color).save(folder / name)
    if caption is not None:
        (folder / name).with_suffix(".txt").write_text(caption)


def test_folder_gives_captions_and_images_in_one_order(tmp_path: Path) -> None:
    save(tmp_path, "b.png", (40, 20), (255, 0, 0), " ein roter Kreis\n")
    save(tmp_path, "a.JPG", (32, 32), (0, 0, 255), "a blue square")
    images = load_images(str(tmp_path))
    assert images.captions == ["a blue square", "ein roter Kreis"]
    loaded = images.load([1, 0, 1], 16)
    assert loaded.shape == (3, 3, 16, 16)
    torch.testing.assert_close(loaded[0, :, 3, 3], torch.tensor([1.0, 0.0, 0.0]))
    assert loaded[1, 2].min() > 0.95


def test_wide_image_is_cut_in_the_middle_and_not_squeezed(tmp_path: Path) -> None:
    wide = Image.new("RGB", (96, 32))
    wide.paste((255, 255, 255), (32, 0, 64, 32))
    wide.save(tmp_path / "wide.png")
    (tmp_path / "wide.txt").write_text("white")
    assert load_images(str(tmp_path)).load([0], 32).min() > 0.99


def test_image_is_cut_to_the_height_and_width_that_are_asked_for(tmp_path: Path) -> None:
    square = Image.new("RGB", (64, 64))
    square.paste((255, 255, 255), (0, 16, 64, 48))
    square.save(tmp_path / "square.png")
    (tmp_path / "square.txt").write_text("a white band")
    loaded = load_images(str(tmp_path)).load([0], (16, 32))
    assert loaded.shape == (1, 3, 16, 32)
    # The filter reaches over the edge of the band.
    assert loaded.min() > 0.9
    assert load_images(str(tmp_path)).sizes([0]).tolist() == [[64, 64]]


@pytest.mark.parametrize("caption", [None, "  "])
def test_image_without_caption_is_refused_by_name(tmp_path: Path, caption: str | None) -> None:
    save(tmp_path, "a.png", (8, 8), (0, 0, 0), "fine")
    save(tmp_path, "b.png", (8, 8), (0, 0, 0), caption)
    with pytest.raises(ValueError, match=r"data.images: expected a caption .* got none in 1 of 2 \(.*b.png\)"):
        load_images(str(tmp_path))


def test_empty_folder_and_broken_image_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data.images: expected a folder with"):
        load_images(str(tmp_path))
    (tmp_path / "a.png").write_bytes(b"no image")
    (tmp_path / "a.txt").write_text("x")
    save(tmp_path, "b.png", (8, 8), (0, 0, 0), "fine")
    whole = (tmp_path / "b.png").read_bytes()
    (tmp_path / "c.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "c.txt").write_text("cut off")
    with pytest.raises(ValueError, match=r"expected readable images, got 2 of 3 that are not: .*a.png .*c.png"):
        load_images(str(tmp_path)).load([0, 1, 2], 16)


def test_image_of_an_upright_camera_is_turned(tmp_path: Path) -> None:
    image = Image.new("RGB", (32, 16))
    image.paste((255, 255, 255), (0, 0, 16, 16))
    exif = image.getexif()
    exif[0x0112] = 6  # Turn a quarter clockwise to see it upright: the left half goes to the top.
    image.save(tmp_path / "a.png", exif=exif)
    (tmp_path / "a.txt").write_text("white above")
    shown = load_images(str(tmp_path)).load([0], 16)[0]
    assert shown[:, :6].min() > 0.9
    assert shown[:, -6:].max() < 0.1


def kinds(tmp_path: Path) -> dict[str, Path]:
    """The same three captioned images as a folder, a tar file, two tar files and two tables."""
    folder = tmp_path / "folder"
    folder.mkdir()
    save(folder, "a.png", (40, 20), (255, 0, 0), "ein roter Kreis")
    save(folder, "b.v2.jpg", (32, 32), (0, 0, 255), "a blue square")
    save(folder, "c.webp", (16, 64), (0, 255, 0), None)
    (folder / "c.json").write_text(json.dumps({"caption": "绿色", "width": 16}))
    names = [["a.png", "a.txt"], ["b.v2.jpg", "b.v2.txt"], ["c.webp", "c.json"]]
    (tmp_path / "tars").mkdir()
    tars = {"one.tar": names, "tars/0.tar": names[:1], "tars/1.tar": names[1:]}
    for tar, groups in tars.items():
        with tarfile.open(tmp_path / tar, "w", format=tarfile.USTAR_FORMAT) as archive:
            for name in (name for group in groups for name in group):
                archive.add(folder / name, f"shard/{name}")
    images = [(folder / image).read_bytes() for image, _ in names]
    captions = ["ein roter Kreis", "a blue square", "绿色"]
    table = pyarrow.table({"image": images, "caption": captions})
    pyarrow.parquet.write_table(table, tmp_path / "bytes.parquet", row_group_size=2)
    structs = [{"bytes": images[0], "path": None}, {"bytes": None, "path": "folder/b.v2.jpg"}]
    structs.append({"bytes": images[2], "path": "c.webp"})
    pyarrow.parquet.write_table(pyarrow.table({"Text": captions, "image": structs}), tmp_path / "structs.parquet")
    return {
        "folder": folder,
        "tar": tmp_path / "one.tar",
        "folder of tars": tmp_path / "tars",
        "pattern": tmp_path / "tars" / "*.tar",
        "parquet": tmp_path / "bytes.parquet",
        "parquet of structs": tmp_path / "structs.parquet",
    }


def test_tar_files_and_tables_give_the_images_and_captions_of_the_folder(tmp_path: Path) -> None:
    sources = kinds(tmp_path)
    expected = load_images(str(sources.pop("folder")))
    assert expected.captions == ["ein roter Kreis", "a blue square", "绿色"]
    for kind, source in sources.items():
        images = load_images(str(source))
        assert images.captions == expected.captions, kind
        assert len(set(images.identities)) == 3
        # Not in order, so that a row group is left and entered again.
        assert torch.equal(images.load([2, 0, 1], 16), expected.load([2, 0, 1], 16)), kind


@pytest.mark.parametrize("kind", ["folder", "tar", "pattern", "parquet", "parquet of structs"])
def test_identity_changes_with_the_content_of_an_image_and_not_with_its_time(tmp_path: Path, kind: str) -> None:
    source = str(kinds(tmp_path)[kind])
    before = load_images(source).identities
    content = (tmp_path / "folder" / "b.v2.jpg").read_bytes()
    times: dict[Path, int] = {}
    for file in (file for file in tmp_path.rglob("*") if file.is_file()):
        times[file] = file.stat().st_mtime_ns + 10**9
        os.utime(file, ns=(times[file], times[file]))
    assert load_images(source).identities == before
    # Another byte in the last ones of the image, which no format needs.
    changed = content[:-1] + bytes([content[-1] ^ 1])
    for file, moment in times.items():
        file.write_bytes(file.read_bytes().replace(content, changed))
        os.utime(file, ns=(moment, moment))
    after = load_images(source).identities
    assert after[1] != before[1]
    # Rows of a table share what is known of its bytes.
    assert kind == "parquet" or (after[0], after[2]) == (before[0], before[2])


def test_captions_without_an_image_are_counted(tmp_path: Path) -> None:
    save(tmp_path, "a.png", (8, 8), (0, 0, 0), "fine")
    assert load_images(str(tmp_path)).note is None
    (tmp_path / "b.heic").write_bytes(b"another format")
    (tmp_path / "b.txt").write_text("another format")
    expected = f"{tmp_path}: 1 image, left out: 1 caption without an image, 1 .heic file"
    assert load_images(str(tmp_path)).note == expected


def test_truncated_compressed_or_mixed_sources_are_refused(tmp_path: Path) -> None:
    sources = kinds(tmp_path)
    content = sources["tar"].read_bytes()
    # In the middle of an image, of a header, and after a member, where a reader could take it for the end.
    for end in (700, 512 + 512 * -(-(sources["folder"] / "a.png").stat().st_size // 512) + 100, 1024):
        (tmp_path / "cut.tar").write_bytes(content[:end])
        with pytest.raises(ValueError, match=r"data.images: expected a complete, uncompressed tar file, got .*cut.tar"):
            load_images(str(tmp_path / "cut.tar"))
    (tmp_path / "zipped.tar").write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match="expected a complete, uncompressed tar file"):
        load_images(str(tmp_path / "zipped.tar"))
    (tmp_path / "cut.parquet").write_bytes(sources["parquet"].read_bytes()[:-9])
    with pytest.raises(ValueError, match="expected a complete Parquet file"):
        load_images(str(tmp_path / "cut.parquet"))
    pyarrow.parquet.write_table(pyarrow.table({"img": [b"x"], "text": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"expected columns image and prompt, caption or text .* got img, text"):
        load_images(str(tmp_path / "other.parquet"))
    save(tmp_path / "tars", "a.png", (8, 8), (0, 0, 0), "beside tar files")
    with pytest.raises(ValueError, match="got 1, 2 and 0 of them; keep one kind"):
        load_images(str(tmp_path / "tars"))
    (sources["folder"] / "c.json").write_text("{")
    with pytest.raises(ValueError, match=r"expected a readable caption, got .*folder/c.json"):
        load_images(str(sources["folder"]))
    numbers = pyarrow.table({"image": [[1, 2]], "text": ["a"]})
    pyarrow.parquet.write_table(numbers, tmp_path / "numbers.parquet")
    with pytest.raises(ValueError, match=r"expected bytes, or bytes and path, in column image of .*got list<"):
        load_images(str(tmp_path / "numbers.parquet"))
    pyarrow.parquet.write_table(pyarrow.table({"image": [b"x"], "text": ["a\0b"]}), tmp_path / "nul.parquet")
    with pytest.raises(ValueError, match=r"got row 0 of .*nul.parquet .*U\+0000"):
        load_images(str(tmp_path / "nul.parquet"))
    pyarrow.parquet.write_table(pyarrow.table({"image": [b"x"], "text": [None]}), tmp_path / "mute.parquet")
    with pytest.raises(ValueError, match=r"got none in 1 of 1 \(.*mute.parquet: row 0\)"):
        load_images(str(tmp_path / "mute.parquet"))


def test_tokens_are_encoded_once_and_are_those_of_the_policy(tmp_path: Path) -> None:
    vae = load_vae("small_world", torch.float32)
    network: Any = None
    policy = FluxPolicy(network, vae, {"guidance_embeds": True}, resolution=64, dtype=torch.float32)
    cache = LatentCache(resolve_path("small_world"), 64, torch.float32, tmp_path / "cache")
    for source in kinds(tmp_path).values():
        images = load_images(str(source))
        missing = cache.missing(images)
        if missing:
            cache.add(images, missing, policy.encode)
        assert cache.missing(images) == []
        found = cache.tokens(images)[[2, 0, 1]]["tokens"]
        torch.testing.assert_close(found, policy.encode(images.load([2, 0, 1], 64)), rtol=1e-4, atol=1e-5)
    # A pattern names the same tar files as their folder.
    assert len(list(cache.store.folder.iterdir())) == 5
    other = tmp_path / "folder" / "a.png"
    other.write_bytes((tmp_path / "folder" / "c.webp").read_bytes())
    assert cache.missing(load_images(str(tmp_path / "folder"))) == [0]


def test_realistic_scenes_are_detailed_show_their_captions_and_stay_the_same() -> None:
    images = load_images("small_world:realistic")
    assert len(images.captions) == 1000
    indices = list(range(0, 1000, 25))
    pixels = images.load(indices, 64)
    assert torch.equal(pixels[:3], load_images("small_world:realistic").load(indices[:3], 64))
    truth = measure(pixels, [images.captions[index] for index in indices])
    assert truth["content_accuracy"].mean() > 0.95
    assert truth["detail"].mean() > 0.1
    with pytest.raises(ValueError, match=r"expected model.resolution 64"):
        images.load([0], 128)


@pytest.mark.parametrize("kind", ["binary", "large_binary", "binary_view", "dictionary", "struct"])
def test_table_column_of_any_binary_type_is_read_and_rows_without_an_image_are_named(tmp_path: Path, kind: str) -> None:
    save(tmp_path, "a.png", (8, 8), (255, 0, 0), None)
    content = (tmp_path / "a.png").read_bytes()
    types = {
        "dictionary": pyarrow.dictionary(pyarrow.int32(), pyarrow.binary()),
        "struct": pyarrow.struct({"bytes": pyarrow.large_binary()}),
    }
    values = [{"bytes": content}, None] if kind == "struct" else [content, None]
    column = pyarrow.array(values, pyarrow.binary() if kind == "dictionary" else types.get(kind, kind))
    column = column.dictionary_encode() if kind == "dictionary" else column
    pyarrow.parquet.write_table(pyarrow.table({"image": column, "text": ["a", "b"]}), tmp_path / "a.parquet")
    images = load_images(str(tmp_path / "a.parquet"))
    assert images.load([0], 8)[0, :, 0, 0].tolist() == [1, 0, 0]
    with pytest.raises(ValueError, match=r"got 1 of 2 that are not: .*row 1 \(expected bytes, got no image\)"):
        images.load([0, 1], 8)
