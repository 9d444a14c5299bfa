"""The build makes loadable weights from nothing, and trains nothing twice."""

from pathlib import Path

import pytest

from srpo_ray.small_world.build import fit
from srpo_ray.small_world.build.__main__ import build
from srpo_ray.small_world.build.rewards import PLANS, fill_bank
from srpo_ray.small_world.build.text import all_captions
from srpo_ray.small_world.prompts import all_contents, held_out_contents
from srpo_ray.small_world.renderer import captions
from srpo_ray.small_world.weights import manifest, verify

TINY = 1e-4


@pytest.mark.long
def test_a_second_build_finds_every_stage_finished_and_writes_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "weights", tmp_path / "work", TINY)
    verify(tmp_path / "weights")
    first = manifest(tmp_path / "weights")
    assert set(first["seconds"]) == {"vae", "flux", "contrastive", "preference", "held_out", "measure"}

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


def test_reward_training_images_have_no_held_out_content() -> None:
    bank = fill_bank(1500, seed=PLANS["contrastive"].contrastive.seed)
    shown = {all_contents()[code] for code in bank.content.tolist()}
    assert len(shown) == 96
    assert not shown & set(held_out_contents())
    texts = all_captions()
    assert [texts[row] for row in bank.caption.tolist()] == captions(bank.scenes)
