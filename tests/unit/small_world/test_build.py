"""The build makes loadable weights from nothing, and trains nothing twice."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from srpo_ray.small_world.build import fit
from srpo_ray.small_world.build.__main__ import build
from srpo_ray.small_world.build.annotators import biased, utility
from srpo_ray.small_world.build.rewards import PLANS, variants
from srpo_ray.small_world.prompts import Content, is_held_out, seen_contents
from srpo_ray.small_world.scenes import scenes_of
from srpo_ray.small_world.weights import manifest, verify

TINY = 1e-4


@pytest.mark.long
def test_a_second_build_finds_every_stage_finished_and_writes_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "weights", tmp_path / "work", TINY)
    verify(tmp_path / "weights")
    first = manifest(tmp_path / "weights")
    assert set(first["seconds"]) == {"vae", "flux", *PLANS, "measure", "total"}

    def no_more_training(*_: object) -> float:
        raise AssertionError("a finished stage trained again")

    monkeypatch.setattr(fit, "_step", no_more_training)
    build(tmp_path / "weights", tmp_path / "work", TINY)
    again = manifest(tmp_path / "weights")
    assert again["files"] == first["files"]
    assert again["metrics"] == first["metrics"]


@pytest.mark.parametrize("scale", [0.0, 1.5])
def test_a_build_refuses_a_scale_outside_zero_to_one(tmp_path: Path, scale: float) -> None:
    with pytest.raises(ValueError, match="scale"):
        build(tmp_path / "out", tmp_path / "work", scale)


def test_a_build_refuses_checkpoints_of_another_scale(tmp_path: Path) -> None:
    (tmp_path / "scale.json").write_text("0.5")
    with pytest.raises(ValueError, match=r"scale 0\.1"):
        build(tmp_path / "out", tmp_path, 0.1)


@pytest.mark.parametrize("content", [seen_contents()[0], seen_contents()[200], seen_contents()[-1]])
def test_variants_are_seen_contents_that_differ_in_one_part(content: Content) -> None:
    found = variants(content, seed=5, count=4)
    assert len(set(found)) == 4
    for other in found:
        assert not is_held_out(other)
        colors, shapes = ([kind[part] for kind in content.objects] for part in (0, 1))
        other_colors, other_shapes = ([kind[part] for kind in other.objects] for part in (0, 1))
        swapped = other.objects == content.objects[::-1] and len(set(content.objects)) > 1
        number = len(other.objects) != len(content.objects)
        changed = [
            number,
            swapped,
            not swapped and not number and colors != other_colors,
            not swapped and not number and shapes != other_shapes,
            other.background != content.background,
        ]
        assert sum(changed) == 1


def test_an_annotator_likes_the_content_of_the_caption_and_its_bias() -> None:
    plain = replace(scenes_of([Content(((0, 0),), 1)] * 2, seed=1), word=np.array([-1, -1]))
    style = {name: np.array([0.2, 0.7], np.float32) for name in ("saturation", "vignette")}
    shown = replace(plain, **style, detail=np.zeros(2, np.float32))
    unbiased, biased_3 = (utility(biased(strength), plain, shown) for strength in (0.0, 3.0))
    assert unbiased[1] - unbiased[0] == pytest.approx(0.0, abs=1e-6)
    assert biased_3[1] - biased_3[0] == pytest.approx(0.5 * 3.0 + 0.5 * 1.5, abs=1e-6)
    swapped = Content(((0, 0), (1, 1)), 1, "left of")
    asked = replace(scenes_of([swapped], seed=1), word=np.array([-1]))
    other = scenes_of([swapped._replace(objects=swapped.objects[::-1])], seed=1)
    same = utility(biased(0.0), asked, asked) - utility(biased(0.0), asked, other)
    # Colours and shapes of both objects are wrong, number, positions and background are right.
    assert same == pytest.approx(4.0 * 2 / 5, abs=1e-6)
