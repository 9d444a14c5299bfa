"""The shipped weights are intact, small enough, load by the stock loaders and do what they are for."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from diffusers import FluxPipeline

from srpo_ray.small_world import truth
from srpo_ray.small_world.build.flux import sample
from srpo_ray.small_world.prompts import caption, split_contents, split_prompts
from srpo_ray.small_world.renderer import render
from srpo_ray.small_world.scenes import sample_scenes
from srpo_ray.small_world.weights import REWARDS, WEIGHTS, manifest, reward_dir, verify


def test_shipped_weights_match_their_manifest_and_fit_in_16_megabytes() -> None:
    verify()
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) <= 16e6


def test_manifest_records_the_build_and_the_metrics_of_the_weights() -> None:
    record = manifest()
    assert record["command"].startswith("python -m srpo_ray.small_world.build")
    assert set(record["curves"]) == {"vae", "flux", *REWARDS}
    assert set(record["metrics"]["rewards"]) == set(REWARDS)


def test_a_changed_file_is_named(tmp_path: Path) -> None:
    copy = tmp_path / "weights"
    shutil.copytree(WEIGHTS, copy)
    verify(copy)
    victim = copy / "rewards" / "contrastive" / "open_clip_config.json"
    victim.write_text(victim.read_text() + " ")
    with pytest.raises(ValueError, match=r"rewards/contrastive/open_clip_config\.json"):
        verify(copy)


def test_a_missing_file_and_a_missing_manifest_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"manifest\.json"):
        verify(tmp_path)
    shutil.copytree(WEIGHTS, tmp_path / "weights")
    (tmp_path / "weights" / "flux" / "model_index.json").unlink()
    with pytest.raises(ValueError, match=r"flux/model_index\.json"):
        verify(tmp_path / "weights")


def test_an_unknown_reward_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="contrastive"):
        reward_dir("aesthetic")


def test_pipeline_has_the_geometry_of_flux(pipeline: FluxPipeline) -> None:
    assert pipeline.transformer.config.guidance_embeds
    assert pipeline.transformer.config.in_channels == 4 * pipeline.vae.config.latent_channels == 64
    assert pipeline.vae_scale_factor == 8
    assert pipeline.scheduler.config.shift == 3.0
    assert {part.dtype for part in (pipeline.transformer, pipeline.vae, pipeline.text_encoder)} == {torch.float32}


def test_samples_of_unseen_prompts_mostly_match_the_prompt(pipeline: FluxPipeline) -> None:
    prompts = split_prompts("test")[:16]
    metrics = truth.measure(sample(pipeline, prompts, steps=12, seed=0), prompts)
    # Chance is 1/8 for colours and at most a half for the other parts.
    assert metrics["content_accuracy"].mean() >= 0.75


@pytest.mark.parametrize("name", REWARDS)
def test_a_reward_loads_by_open_clip_and_its_control_words_rank_detailed_above_flat(name: str) -> None:
    model: Any = open_clip.create_model_and_transforms(f"local-dir:{reward_dir(name)}")[0]
    tokenizer: Any = open_clip.get_tokenizer(f"local-dir:{reward_dir(name)}")
    scenes = sample_scenes(64, seed=1, contents=split_contents("test"))
    flat, detailed = (
        torch.from_numpy(render(replace(scenes, detail=np.full(64, detail, np.float32)))) for detail in (0.05, 0.9)
    )
    plain = [caption(content) for content in scenes.contents]
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    with torch.no_grad():
        up, down = (
            model.encode_text(tokenizer([f"{word}. {text}" for text in plain]), normalize=True)
            for word in ("detailed", "flat")
        )
        scores = [
            (model.encode_image((images - mean) / std, normalize=True) * (up - down)).sum(1)
            for images in (detailed, flat)
        ]
    assert (scores[0] > scores[1]).float().mean() >= 0.95


def test_any_text_tokenizes_and_ends_in_the_largest_id(pipeline: FluxPipeline) -> None:
    for text in ("Real. A photo, naïve: 100% 日本!", "a red circle on a gray background", ""):
        ids = pipeline.tokenizer(text).input_ids
        assert ids[-1] == max(ids) == pipeline.tokenizer.eos_token_id == len(pipeline.tokenizer) - 1
    words = pipeline.tokenizer_2("detailed. a red circle on a gray background").input_ids
    assert pipeline.tokenizer_2.unk_token_id not in words
    assert len(words) <= 16
