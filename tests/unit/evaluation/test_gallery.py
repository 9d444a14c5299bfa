from pathlib import Path

import pytest
import torch
from PIL import Image

from srpo_ray.evaluation.gallery import before_after, image_grid, read_images, save_png


def colours(image: Image.Image) -> set[object]:
    return {colour for _, colour in image.getcolors(1 << 24) or []}


def test_grid_shows_every_image_without_blur():
    shades = torch.tensor([0.1, 0.4, 0.6, 0.8])
    images = shades[:, None, None, None].expand(4, 3, 16, 16).clone()
    images[:, 0] = 1
    grid = image_grid(images, ["a", "b", "c", "d"], columns=3, scale=2)
    shown = colours(grid)
    for shade in shades.tolist():
        assert (255, round(shade * 255), round(shade * 255)) in shown
    wide = image_grid(images, ["a", "b", "c", "d"], columns=9, scale=2)
    assert wide.width > grid.width
    assert wide.height < grid.height


def test_enlarged_pixels_stay_sharp():
    images = torch.zeros(1, 3, 2, 2)
    images[0, 0, 0, 0] = 1
    grid = image_grid(images, [""], columns=1, scale=4)
    assert colours(grid) == {(255, 255, 255), (255, 0, 0), (0, 0, 0)}
    assert sum(pixel == (255, 0, 0) for pixel in grid.get_flattened_data()) == 16


def test_captions_are_drawn_and_cut_to_the_image():
    images = torch.ones(1, 3, 64, 64)
    empty = image_grid(images, [""], columns=1, scale=1)
    long = image_grid(images, ["a very long caption " * 20 + "W" * 300], columns=1, scale=1)
    assert empty.size == long.size
    assert colours(empty) == {(255, 255, 255)}
    assert len(colours(long)) > 1


@pytest.mark.parametrize(("size", "shown"), [(64, 192), (192, 192), (256, 256), (512, 256), (1024, 256)])
def test_before_after_shows_any_size_at_a_readable_one(size: int, shown: int):
    black = torch.zeros(1, 3, size, size)
    image = before_after(black, black, ["prompt"])
    assert 2 * shown < image.width < 2 * shown + 60


def test_before_comes_left_of_after():
    before, after = torch.zeros(2, 3, 64, 64), torch.zeros(2, 3, 64, 64)
    before[:, 0], after[:, 2] = 1, 1
    image = before_after(before, after, ["p", "q"])
    row = [image.getpixel((x, 100)) for x in range(image.width)]
    assert 0 < row.index((255, 0, 0)) < row.index((0, 0, 255))
    assert row.count((255, 0, 0)) == row.count((0, 0, 255)) == 2 * 192


def test_values_outside_the_range_and_nan_are_drawn():
    images = torch.full((1, 3, 8, 8), 7.0)
    images[0, :, 0, 0] = torch.nan
    images[0, :, 1, 1] = -3
    assert colours(image_grid(images, [""], 1, 1)) == {(255, 255, 255), (0, 0, 0)}


def test_wrong_counts_are_refused():
    images = torch.zeros(2, 3, 8, 8)
    with pytest.raises(ValueError, match="1 captions"):
        image_grid(images, ["one"], 2, 1)
    with pytest.raises(ValueError, match="columns >= 1, got 0"):
        image_grid(images, ["a", "b"], 0, 1)
    with pytest.raises(ValueError, match="before and after"):
        before_after(images, torch.zeros(2, 3, 16, 16), ["a", "b"])


def test_png_replaces_the_old_one_and_leaves_nothing_else(tmp_path: Path):
    path = tmp_path / "new" / "gallery.png"
    for shade in (0, 255):
        save_png(Image.new("RGB", (4, 4), (shade, 0, 0)), path)
    with Image.open(path) as image:
        assert image.getpixel((0, 0)) == (255, 0, 0)
    assert list(path.parent.iterdir()) == [path]


def test_files_are_read_reduced_and_refused_by_name(tmp_path: Path):
    large = Image.new("RGB", (64, 32), (255, 0, 0))
    large.save(tmp_path / "a.png")
    assert read_images([tmp_path / "a.png"]).shape == (1, 3, 32, 64)
    reduced = read_images([tmp_path / "a.png", tmp_path / "a.png"], width=16)
    assert reduced.shape == (2, 3, 8, 16)
    assert (reduced[:, 0] == 1).all()
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"expected a readable image, got .*b.png"):
        read_images([tmp_path / "a.png", tmp_path / "b.png"])
    with pytest.raises(ValueError, match=r"expected a readable image, got .*c.png"):
        read_images([tmp_path / "c.png"])
    large.resize((8, 8)).save(tmp_path / "d.png")
    with pytest.raises(ValueError, match=r"of one size, got \[32, 64\] in .*a.png and \[8, 8\] in .*d.png"):
        read_images([tmp_path / "a.png", tmp_path / "d.png"])
