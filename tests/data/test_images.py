from pathlib import Path

import pytest
import torch
from PIL import Image

from srpo_ray.data.images import load_images
from srpo_ray.small_world.truth import measure


def save(folder: Path, name: str, size: tuple[int, int], color: tuple[int, int, int], caption: str | None) -> None:
    Image.new("RGB", size, color).save(folder / name)
    if caption is not None:
        (folder / name).with_suffix(".txt").write_text(caption)


def test_folder_gives_captions_and_pictures_in_one_order(tmp_path: Path) -> None:
    save(tmp_path, "b.png", (40, 20), (255, 0, 0), " ein roter Kreis\n")
    save(tmp_path, "a.JPG", (32, 32), (0, 0, 255), "a blue square")
    images = load_images(str(tmp_path))
    assert images.captions == ["a blue square", "ein roter Kreis"]
    loaded = images.load([1, 0, 1], 16)
    assert loaded.shape == (3, 3, 16, 16)
    torch.testing.assert_close(loaded[0, :, 3, 3], torch.tensor([1.0, 0.0, 0.0]))
    assert loaded[1, 2].min() > 0.95


def test_wide_picture_is_cut_in_the_middle_and_not_squeezed(tmp_path: Path) -> None:
    wide = Image.new("RGB", (96, 32))
    wide.paste((255, 255, 255), (32, 0, 64, 32))
    wide.save(tmp_path / "wide.png")
    (tmp_path / "wide.txt").write_text("white")
    assert load_images(str(tmp_path)).load([0], 32).min() > 0.99


@pytest.mark.parametrize("caption", [None, "  "])
def test_picture_without_caption_is_refused_by_name(tmp_path: Path, caption: str | None) -> None:
    save(tmp_path, "a.png", (8, 8), (0, 0, 0), "fine")
    save(tmp_path, "b.png", (8, 8), (0, 0, 0), caption)
    with pytest.raises(ValueError, match=r"data.images: expected a caption .* got none in 1 of 2 \(b.txt\)"):
        load_images(str(tmp_path))


def test_empty_folder_and_broken_picture_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data.images: expected a folder with"):
        load_images(str(tmp_path))
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=r"expected a readable picture, got .*a.png"):
        load_images(str(tmp_path)).load([0], 16)


def test_realistic_scenes_are_detailed_show_their_captions_and_stay_the_same() -> None:
    images = load_images("small_world:realistic")
    assert len(images.captions) == 1000
    indices = list(range(0, 1000, 25))
    pictures = images.load(indices, 64)
    assert torch.equal(pictures[:3], load_images("small_world:realistic").load(indices[:3], 64))
    truth = measure(pictures, [images.captions[index] for index in indices])
    assert truth["content_accuracy"].mean() > 0.95
    assert truth["detail"].mean() > 0.1
    with pytest.raises(ValueError, match=r"expected model.resolution 64"):
        images.load([0], 128)
