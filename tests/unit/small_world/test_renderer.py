"""The renderer draws what its scenes say, and truth reads it back from the pixels."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from srpo_ray.small_world import prompts, truth
from srpo_ray.small_world.renderer import VIGNETTE, render
from srpo_ray.small_world.scenes import Scenes, captions, content_table, sample_scenes, scenes_of

UNIFORM_COUNT = 1000
STYLES = (*prompts.AXES, *prompts.UNNAMED)


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    """All kinds of contents, independent uniform styles."""
    rng = np.random.default_rng(5)
    styles = {axis: rng.random(UNIFORM_COUNT).astype(np.float32) for axis in STYLES}
    return replace(sample_scenes(UNIFORM_COUNT, seed=6), **styles)


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


def test_training_scenes_never_have_a_held_out_content_and_have_every_kind() -> None:
    scenes = sample_scenes(20_000, seed=3)
    assert not set(scenes.contents) & set(prompts.held_out_contents())
    kinds = Counter(content.kind for content in scenes.contents)
    shares = {kind: count / 20_000 for kind, count in kinds.items()}
    assert shares == pytest.approx({"one": 0.3, "equal": 0.25, "pair": 0.45}, abs=0.02)


def test_a_scene_of_each_content_is_drawn_in_order() -> None:
    contents = prompts.split_contents("test")
    assert scenes_of(contents, seed=1).contents == list(contents)


def test_the_outer_border_shows_only_background(scenes: Scenes) -> None:
    flat = replace(scenes, detail=np.zeros_like(scenes.detail), vignette=np.zeros_like(scenes.detail))
    images = render(flat)
    corner = images[:, :, :1, :1]
    for edge in (images[:, :, :2], images[:, :, -2:], images[:, :, :, :2], images[:, :, :, -2:]):
        assert np.abs(edge - corner).max() < 1e-6


def test_objects_never_touch(scenes: Scenes) -> None:
    table = content_table()
    several = scenes[table.count[scenes.content] > 1]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        both = several[table.count[several.content] > second]
        gap = np.hypot(both.x[:, first] - both.x[:, second], both.y[:, first] - both.y[:, second])
        # No point of a shape is farther from its centre than 1.24 radii, that of a square 1.22.
        across = np.maximum(abs(both.x[:, first] - both.x[:, second]), abs(both.y[:, first] - both.y[:, second]))
        assert (across > 1.24 * (both.radius[:, first] + both.radius[:, second])).all()
        assert (gap >= across).all()


@pytest.mark.parametrize(("relation", "axis"), [("left of", "x"), ("above", "y")])
def test_the_first_object_of_a_pair_is_left_of_or_above_the_second(relation: str, axis: str, scenes: Scenes) -> None:
    chosen = np.array([content.relation == relation for content in scenes.contents])
    places = getattr(scenes, axis)[chosen]
    assert (places[:, 0] < places[:, 1]).all()


def test_a_red_circle_is_red_at_its_centre_and_covers_the_area_of_a_circle() -> None:
    one = scenes_of([prompts.Content(((0, 0),), 2)], seed=4)
    zero = np.zeros(1, np.float32)
    one = replace(one, detail=zero, vignette=zero, saturation=np.ones(1, np.float32))
    image = render(one)[0]
    red, green, blue = image[:, int(one.y[0, 0]), int(one.x[0, 0])]
    assert red > 0.4
    assert max(green, blue) < 0.1
    assert (image[0] > 0.3).sum() == pytest.approx(np.pi * one.radius[0, 0] ** 2, rel=0.03)


def test_a_vignette_of_1_takes_the_corners_the_share_of_light_that_it_states() -> None:
    plain = scenes_of([prompts.Content(((0, 0),), 0)], seed=4)
    plain = replace(plain, detail=np.zeros(1, np.float32), vignette=np.zeros(1, np.float32))
    dark = render(replace(plain, vignette=np.ones(1, np.float32)))
    assert (dark / render(plain))[0, 0, 0, 0] == pytest.approx(1 - VIGNETTE, abs=0.02)


@pytest.mark.parametrize("part", truth.PARTS)
def test_truth_reads_content_off_clean_images_of_any_style(part: str, metrics: dict[str, torch.Tensor]) -> None:
    assert metrics[f"{part}_accuracy"].mean() >= 0.99


def test_truth_sees_when_the_image_shows_another_color_shape_or_background() -> None:
    shown = [prompts.Content(((2, 1),), 0), prompts.Content(((4, 0), (1, 3)), 2, "above")]
    asked = [prompts.Content(((3, 0),), 1), prompts.Content(((5, 1), (2, 0)), 3, "above")]
    found = truth.measure(torch.from_numpy(render(scenes_of(shown, seed=1))), list(map(prompts.caption, asked)))
    for part in ("color", "shape", "background"):
        assert found[f"{part}_accuracy"].tolist() == [0.0, 0.0]
    assert found["count_accuracy"].tolist() == [1.0, 1.0]


def test_truth_sees_swapped_positions_another_number_and_half_of_a_pair() -> None:
    pair = prompts.Content(((0, 0), (5, 1)), 1, "left of")
    three = prompts.Content(((3, 2),) * 3, 1)
    shown = [pair._replace(objects=pair.objects[::-1]), three, prompts.Content(pair.objects[:1], 1)]
    asked = [pair, three._replace(objects=three.objects[:2]), pair]
    found = truth.measure(torch.from_numpy(render(scenes_of(shown, seed=2))), list(map(prompts.caption, asked)))
    assert found["position_accuracy"].tolist() == [0.0, 1.0, 0.0]
    assert found["count_accuracy"].tolist() == [1.0, 0.0, 0.0]
    assert found["color_accuracy"].tolist() == [1.0, 1.0, 0.5]
    assert found["content_accuracy"].tolist() == pytest.approx([4 / 5, 4 / 5, 2 / 5])


@pytest.mark.parametrize("axis", STYLES)
def test_truth_follows_each_style_axis_and_no_other(
    axis: str, scenes: Scenes, metrics: dict[str, torch.Tensor]
) -> None:
    for other in STYLES:
        correlation = np.corrcoef(metrics[axis].numpy(), getattr(scenes, other))[0, 1]
        assert correlation > 0.95 if other == axis else abs(correlation) < 0.1


def test_measured_style_has_the_scale_of_the_renderer(scenes: Scenes, metrics: dict[str, torch.Tensor]) -> None:
    for axis, values in truth.style(metrics).items():
        assert values.numpy() == pytest.approx(getattr(scenes, axis), abs=0.1), axis
        assert float(values.mean()) == pytest.approx(float(getattr(scenes, axis).mean()), abs=0.02), axis


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
