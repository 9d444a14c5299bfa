"""Sizes of images in a run of several sizes: those of prompts, and those of real images."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from srpo_ray.config.size import ImageSize
from srpo_ray.data.cache.image_sizes import ImageSizeCache
from srpo_ray.data.images import load_images
from srpo_ray.data.mixture import Prompts
from srpo_ray.data.sizes import nearest_size, prompt_size
from srpo_ray.models.conditioning import Conditioning

SIZES = (ImageSize(32, 32), ImageSize(32, 64), ImageSize(64, 32))
NOTHING = Conditioning(torch.zeros(4, 1, 1), torch.zeros(4, 1))


def test_size_depends_on_prompt_and_seed_alone_and_every_size_has_an_equal_share() -> None:
    prompts = [f"a picture of number {index}" for index in range(3000)]
    found = {prompt: prompt_size(prompt, SIZES, 0) for prompt in prompts}
    assert found == {prompt: prompt_size(prompt, SIZES, 0) for prompt in reversed(prompts)}
    # Three standard deviations of a share of a third of 3000.
    assert all(abs(count - 1000) < 3 * (3000 * 2 / 9) ** 0.5 for count in Counter(found.values()).values())
    other = [prompt_size(prompt, SIZES, 1) == found[prompt] for prompt in prompts]
    assert 0.28 < sum(other) / len(other) < 0.39


def test_prompts_of_a_forward_pass_have_one_size() -> None:
    texts = ["a", "b", "c", "d"]
    one_size = Prompts(texts, NOTHING)
    several = Prompts(texts, NOTHING, sizes=[SIZES[0], SIZES[1], SIZES[1], SIZES[2]])
    assert one_size.size_of([0, 3]) is None
    assert (several.size_of([0]), several.size_of([2, 1])) == (SIZES[0], SIZES[1])
    with pytest.raises(ValueError, match="too many values"):
        several.size_of([0, 1])


@pytest.mark.parametrize(
    ("image", "nearest"),
    [
        ((100, 100), SIZES[0]),
        ((100, 130), SIZES[0]),
        # Half way between the ratios 1 and 2 is the root of 2.
        ((100, 141), SIZES[0]),
        ((100, 142), SIZES[1]),
        ((300, 10), SIZES[2]),
    ],
)
def test_real_image_has_the_size_of_the_nearest_ratio(image: tuple[int, int], nearest: ImageSize) -> None:
    assert nearest_size([ImageSize(*image)], SIZES) == nearest
    assert nearest_size([ImageSize(*image)], (*SIZES, ImageSize(64, 64))) == nearest


@pytest.mark.parametrize(
    ("first", "second", "nearest"),
    [
        ((10, 20), (300, 600), SIZES[1]),
        # Ratios 1/2 and 2 have the mean 1, ratios 1/3 and 1 the mean 1 / root of 3, which is nearer to 1/2.
        ((100, 200), (200, 100), SIZES[0]),
        ((100, 300), (100, 100), SIZES[1]),
        ((100, 100), (100, 190), SIZES[0]),
    ],
)
def test_images_of_a_pair_have_one_size_whichever_is_preferred(
    first: tuple[int, int], second: tuple[int, int], nearest: ImageSize
) -> None:
    pair = [ImageSize(*first), ImageSize(*second)]
    assert nearest_size(pair, SIZES) == nearest_size(pair[::-1], SIZES) == nearest


def test_heights_and_widths_of_images_are_read_once(tmp_path: Path) -> None:
    for name, size in (("a", (40, 20)), ("b", (16, 48))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(name)
    images, cache = load_images(str(tmp_path)), ImageSizeCache(tmp_path / "cache")
    assert cache.missing(images) == [0, 1]
    cache.add(images, [1])
    assert cache.missing(images) == [0]
    cache.add(images, [0])
    assert cache.missing(images) == []
    assert cache.sizes(images) == [(20, 40), (48, 16)]
