"""The second family of models: its policy against diffusers' own pipeline, and a run from training to export."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor

from srpo_ray.config.model import ModelConfig
from srpo_ray.config.size import ImageSize
from srpo_ray.models.latents import unpack
from srpo_ray.models.loading import load_transformer, load_vae
from srpo_ray.models.sd3 import SD3Policy
from srpo_ray.models.sigma_grid import sigma_grid
from srpo_ray.models.sizes import check_sizes, stored_config
from srpo_ray.models.text_encoders import encode_prompts
from tests.helpers.models.tiny_sd3 import save_tiny_sd3

PROMPTS = ["a red circle on a gray background", "a blue square on a green background"]


@pytest.fixture(scope="module")
def tiny_sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_sd3(tmp_path_factory.mktemp("sd3"))


def policy_for(path: Path) -> SD3Policy:
    transformer = load_transformer(str(path), torch.float32).eval()
    vae = load_vae(str(path), torch.float32)
    return SD3Policy(transformer, vae, transformer.config, resolution=64, dtype=torch.float32)


def drawn_by_diffusers(path: Path, latents: Tensor, guidance_scale: float) -> Tensor:
    pipeline: Any = StableDiffusion3Pipeline.from_pretrained(path)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        PROMPTS,
        height=64,
        width=64,
        num_inference_steps=4,
        guidance_scale=guidance_scale,
        max_sequence_length=16,
        latents=latents,
        output_type="pt",
    ).images


@pytest.mark.parametrize("guidance_scale", [1.0, 4.5])
def test_rollout_and_decode_draw_what_the_pipeline_draws(tiny_sd3: Path, guidance_scale: float) -> None:
    policy = policy_for(tiny_sd3)
    conditioning = encode_prompts(str(tiny_sd3), [*PROMPTS, ""], 16)
    policy.empty_prompt = conditioning[-1:]
    noise = policy.noise([torch.Generator().manual_seed(seed) for seed in (0, 1)])
    expected = drawn_by_diffusers(tiny_sd3, unpack(noise, 8, 8), guidance_scale)
    with torch.no_grad():
        sigmas = sigma_grid(ModelConfig(path=str(tiny_sd3)))(4, "scheduler")
        found = policy.decode(policy.rollout(noise, conditioning[:-1], sigmas, guidance_scale))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    assert policy.take_evaluations().forward == 4 * 2 * (1 if guidance_scale == 1 else 2)


def test_images_larger_than_the_models_positions_are_refused(tiny_sd3: Path) -> None:
    path = str(tiny_sd3)
    check_sizes(path, {"model.resolution": ImageSize(128, 16)}, stored_config(path))
    with pytest.raises(ValueError, match=r"model.resolution: expected at most 128 .* 8x8 positions, got \[64, 144\]"):
        check_sizes(path, {"model.resolution": ImageSize(64, 144)}, stored_config(path))
