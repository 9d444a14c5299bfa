"""The renderer draws what its scenes say, and truth reads it back from the pixels."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from srpo_ray.small_world import prompts, truth
from srpo_ray.small_world.renderer import Scenes, captions, render, sample_scenes

UNIFORM_COUNT = 1500


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    """All contents, independent uniform styles."""
    rng = np.random.default_rng(5)
    styles = {axis: rng.random(UNIFORM_COUNT).astype(np.float32) for axis in prompts.AXES}
    return replace(sample_scenes(UNIFORM_COUNT, seed=6, contents=prompts.all_contents()), **styles)


@pytest.fixture(scope="module")
def metrics(scenes: Scenes) -> dict[str, torch.Tensor]:
    return truth.measure(torch.from_numpy(render(scenes)), captions(scenes))


def test_same_seed_draws_the_same_images_and_another_seed_others() -> None:
    first, again, other = (render(sample_scenes(8, seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == (8, 3, 64, 64)
    assert first.dtype == np.float32
    assert 0 <= first.min() <= first.max() <= 1


def test_training_scenes_never_have_a_held_out_content() -> None:
    scenes = sample_scenes(20_000, seed=3)
    assert not np.any(scenes.background == (scenes.color + scenes.shape) % 4)
    assert len(np.unique(np.stack([scenes.color, scenes.shape, scenes.background]), axis=1).T) == 96


def test_the_outer_border_shows_only_background(scenes: Scenes) -> None:
    flat = replace(scenes, detail=np.zeros_like(scenes.detail))
    images = render(flat)
    corner = images[:, :, :1, :1]
    for edge in (images[:, :, :2], images[:, :, -2:], images[:, :, :, :2], images[:, :, :, -2:]):
        assert np.abs(edge - corner).max() < 1e-6


def test_a_red_circle_is_red_at_its_centre_and_covers_the_area_of_a_circle() -> None:
    one = sample_scenes(1, seed=4, contents=[(0, 0, 2)])
    one = replace(one, detail=np.zeros(1, np.float32), saturation=np.ones(1, np.float32))
    image = render(one)[0]
    red, green, blue = image[:, int(one.y[0]), int(one.x[0])]
    assert red > 0.4
    assert max(green, blue) < 0.1
    assert (image[0] > 0.3).sum() == pytest.approx(np.pi * one.radius[0] ** 2, rel=0.03)


@pytest.mark.parametrize("part", ["color", "shape", "background"])
def test_truth_reads_content_off_clean_images_of_any_style(part: str, metrics: dict[str, torch.Tensor]) -> None:
    assert metrics[f"{part}_accuracy"].mean() >= 0.99


def test_truth_sees_when_the_image_shows_something_else(scenes: Scenes) -> None:
    images = torch.from_numpy(render(scenes[:300]))
    others = replace(scenes[:300], color=(scenes.color[:300] + 1) % 8, shape=(scenes.shape[:300] + 1) % 4)
    wrong = truth.measure(images, captions(others))
    assert wrong["color_accuracy"].mean() <= 0.01
    assert wrong["shape_accuracy"].mean() <= 0.01
    assert wrong["background_accuracy"].mean() >= 0.99
    assert wrong["content_accuracy"].mean() == pytest.approx(1 / 3, abs=0.02)


@pytest.mark.parametrize("axis", prompts.AXES)
def test_truth_follows_each_style_axis_and_no_other(
    axis: prompts.Axis, scenes: Scenes, metrics: dict[str, torch.Tensor]
) -> None:
    for other in prompts.AXES:
        correlation = np.corrcoef(metrics[axis].numpy(), getattr(scenes, other))[0, 1]
        assert correlation > 0.9 if other == axis else abs(correlation) < 0.15


def test_truth_needs_no_object_to_measure_a_image() -> None:
    blank = truth.measure(torch.full((2, 3, 64, 64), 0.38), ["a red circle on a gray background"] * 2)
    assert all(torch.isfinite(values).all() for values in blank.values())
    assert blank["detail"].max() < 1e-3
    assert blank["background_accuracy"].tolist() == [1.0, 1.0]


def test_truth_refuses_images_of_another_size() -> None:
    with pytest.raises(ValueError, match="64"):
        truth.measure(torch.zeros(1, 3, 32, 32), ["a red circle on a gray background"])


def test_diversity_is_zero_for_copies_and_the_rms_difference_otherwise() -> None:
    image = torch.rand(1, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) / 2
    assert truth.diversity(image.expand(3, -1, -1, -1, -1)).tolist() == [0.0, 0.0]
    assert truth.diversity(torch.cat([image, image + 0.25])).tolist() == pytest.approx([0.25, 0.25], abs=1e-4)
    with pytest.raises(ValueError, match="two seeds"):
        truth.diversity(image)


@pytest.mark.parametrize(
    ("word", "axis", "high"),
    [
        ("detailed", "detail", True),
        ("flat", "detail", False),
        ("vivid", "saturation", True),
        ("dim", "brightness", False),
    ],
)
def test_a_style_word_moves_its_axis_away_from_plain_captions(word: str, axis: str, high: bool) -> None:
    scenes = sample_scenes(6000, seed=8)
    named = getattr(scenes, axis)[scenes.word == prompts.WORDS.index(word)].mean()
    plain = getattr(scenes, axis)[scenes.word == -1].mean()
    assert (named > plain) == high
    assert abs(named - plain) > 0.1
