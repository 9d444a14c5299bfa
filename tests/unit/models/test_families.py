"""Rollouts and images of every family against diffusers' own pipelines, at tiny size."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from srpo_ray.config.model import ModelConfig
from srpo_ray.models.families import family_of
from srpo_ray.models.latents import pack, unpack
from srpo_ray.models.loading import load_transformer, load_vae
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.models.registry import policy_class
from srpo_ray.models.sigma_grid import sigma_grid
from srpo_ray.models.text_encoders import encode_prompts
from tests.helpers.models.tiny_families import LENGTHS, SAVERS, length_keywords, over_white, save_tiny_krea2

PROMPTS = ["a red circle on a gray background", "a blue square"]
CASES = [
    ("flux", 3.5, {"guidance_scale": 3.5}),
    ("sd3", 1.0, {"guidance_scale": 1.0}),
    ("sd3", 4.5, {"guidance_scale": 4.5}),
    ("flux2_klein", 1.0, {"guidance_scale": 1.0}),
    ("flux2_klein", 4.0, {"guidance_scale": 4.0}),
    ("flux2", 3.5, {"guidance_scale": 3.5}),
    ("z_image", 1.0, {"guidance_scale": 0.0}),
    ("z_image", 4.0, {"guidance_scale": 3.0}),
    ("qwen_image", 1.0, {"true_cfg_scale": 1.0}),
    ("qwen_image", 4.0, {"true_cfg_scale": 4.0, "negative_prompt": [" ", " "]}),
    ("krea2", 1.0, {"guidance_scale": 0.0}),
    ("krea2", 5.5, {"guidance_scale": 4.5}),
    ("qwen_image21", 1.0, {"true_cfg_scale": 1.0}),
    ("qwen_image21", 4.0, {"true_cfg_scale": 4.0, "negative_prompt": " "}),
]
"""Family, the project's guidance scale, and the keywords of the pipeline that mean the same."""


SQUARE, TALL, WIDE = (64, 64), (96, 48), (48, 80)
"""Height and width in pixels."""
OF_32 = {TALL: (96, 64), WIDE: (32, 96)}
"""Sizes for Qwen-Image-2.1, whose sides are multiples of 32 pixels."""


def policy_for(path: Path, size: tuple[int, int] = SQUARE) -> FlowPolicy:
    transformer = load_transformer(str(path), torch.float32).eval()
    vae = load_vae(str(path), torch.float32)
    return policy_class(str(path))(transformer, vae, transformer.config, resolution=size, dtype=torch.float32)


def drawn_by_diffusers(
    name: str, path: Path, noise: Tensor, keywords: dict[str, Any], output: str, size: tuple[int, int] = SQUARE
) -> Tensor:
    height, width = size
    pipeline: Any = getattr(diffusers, family_of(str(path)).pipeline).from_pretrained(path)
    pipeline.set_progress_bar_config(disable=True)
    latents = {
        "flux": noise,
        "sd3": unpack(noise, height // 8, width // 8),
        # FLUX.2's pipelines take packed channels on a grid of patches, Qwen-Image's and Krea 2's take tokens.
        "flux2_klein": noise.transpose(1, 2).unflatten(2, (height // 16, width // 16)),
        "flux2": noise.transpose(1, 2).unflatten(2, (height // 16, width // 16)),
        "z_image": unpack(noise, height // 8, width // 8),
        "qwen_image": noise,
        "krea2": noise,
        "qwen_image21": noise,
    }[name]

    def draw(prompts: list[str], latents: Tensor) -> Tensor:
        return pipeline(
            prompt=prompts,
            height=height,
            width=width,
            num_inference_steps=4,
            latents=latents,
            output_type=output,
            **length_keywords(name),
            **keywords,
        ).images

    if name != "qwen_image21":
        return draw(list(PROMPTS), latents)
    # The images of a call of this pipeline depend on the longest of its prompts.
    drawn = torch.cat([draw([prompt], each) for prompt, each in zip(PROMPTS, latents.split(1), strict=True)])
    return over_white(drawn) if output == "pt" else drawn


def as_latents(name: str, policy: FlowPolicy, tokens: Tensor) -> Tensor:
    """Convert tokens to the latents that the pipeline returns."""
    if name in ("flux", "flux2", "qwen_image", "krea2", "qwen_image21"):
        return tokens
    if name in ("sd3", "z_image"):
        return unpack(tokens, *policy.latent_size)
    deviation = (policy.vae.bn.running_var + policy.vae.config["batch_norm_eps"]).sqrt()
    return unpack(tokens * deviation + policy.vae.bn.running_mean, *policy.latent_size)


@pytest.mark.parametrize(("name", "guidance_scale", "keywords"), CASES)
def test_rollout_and_images_are_those_of_the_pipeline(
    tiny: Callable[[str], Path], name: str, guidance_scale: float, keywords: dict[str, Any]
) -> None:
    path = tiny(name)
    policy, family = policy_for(path), family_of(str(path))
    conditioning = encode_prompts(str(path), [*PROMPTS, *family.empty_texts()], LENGTHS[name])
    policy.empty_prompt = conditioning[2:] if family.classifier_free else None
    noise = policy.noise([torch.Generator().manual_seed(seed) for seed in (0, 1)])
    with torch.no_grad():
        tokens = policy.rollout(
            noise, conditioning[:2], sigma_grid(ModelConfig(path=str(path)))(4, "scheduler"), guidance_scale
        )
        images = policy.decode(tokens)
    expected = drawn_by_diffusers(name, path, noise, keywords, "latent")
    found = as_latents(name, policy, tokens)
    assert ((found - expected).norm() / expected.norm()).item() < 1e-5
    assert (expected - as_latents(name, policy, noise)).norm() > 0.1 * expected.norm()
    torch.testing.assert_close(images, drawn_by_diffusers(name, path, noise, keywords, "pt"), rtol=0, atol=2e-5)
    doubled = family.classifier_free and guidance_scale != 1
    assert policy.take_evaluations().forward == 4 * 2 * (2 if doubled else 1)


@pytest.mark.parametrize("size", [TALL, WIDE])
@pytest.mark.parametrize(("name", "guidance_scale", "keywords"), [case for case in CASES if case[1] != 1])
def test_rollout_and_images_of_another_height_and_width_are_those_of_the_pipeline(
    tiny: Callable[[str], Path], name: str, guidance_scale: float, keywords: dict[str, Any], size: tuple[int, int]
) -> None:
    path = tiny(name)
    size = OF_32[size] if name == "qwen_image21" else size
    # A run trains at one size and evaluates at another.
    policy, family, model = policy_for(path), family_of(str(path)), ModelConfig(path=str(path), resolution=size)
    conditioning = encode_prompts(str(path), [*PROMPTS, *family.empty_texts()], LENGTHS[name])
    policy.empty_prompt = conditioning[2:] if family.classifier_free else None
    with torch.no_grad(), policy.at_size(model.size):
        noise = policy.noise([torch.Generator().manual_seed(seed) for seed in (0, 1)])
        tokens = policy.rollout(noise, conditioning[:2], sigma_grid(model)(4, "scheduler"), guidance_scale)
        images, found = policy.decode(tokens), as_latents(name, policy, tokens)
    assert policy.size == SQUARE
    assert images.shape == (2, 3, *size)
    expected = drawn_by_diffusers(name, path, noise, keywords, "latent", size)
    assert ((found - expected).norm() / expected.norm()).item() < 1e-5
    torch.testing.assert_close(images, drawn_by_diffusers(name, path, noise, keywords, "pt", size), rtol=0, atol=2e-5)


def test_distilled_krea_2_is_sampled_with_the_fixed_shift_of_its_pipeline(
    tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    path = save_tiny_krea2(tmp_path, distilled=True)
    policy, grid = policy_for(path), sigma_grid(ModelConfig(path=str(path)))(4, "scheduler")
    assert not torch.allclose(grid, sigma_grid(ModelConfig(path=str(tiny("krea2"))))(4, "scheduler"))
    conditioning = encode_prompts(str(path), PROMPTS, LENGTHS["krea2"])
    noise = policy.noise([torch.Generator().manual_seed(seed) for seed in (0, 1)])
    found = policy.rollout(noise, conditioning, grid, 1.0)
    expected = drawn_by_diffusers("krea2", path, noise, {"guidance_scale": 0.0}, "latent")
    assert ((found - expected).norm() / expected.norm()).item() < 1e-5


@pytest.mark.parametrize("size", [SQUARE, WIDE])
@pytest.mark.parametrize("name", SAVERS)
def test_encoding_is_the_inverse_of_the_decoders_normalisation(
    tiny: Callable[[str], Path], name: str, size: tuple[int, int]
) -> None:
    transparent = name == "qwen_image21"
    size = OF_32.get(size, size) if transparent else size
    policy = policy_for(tiny(name), size)
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    tokens = policy.encode(image)
    assert tokens.shape == (1, *policy.token_shape)
    opaque = torch.cat([image, torch.ones(1, 1, *size)], dim=1) if transparent else image
    pixels, frames = opaque * 2 - 1, name in ("qwen_image", "krea2", "qwen_image21")
    (posterior,) = policy.vae.encode(pixels.unsqueeze(2) if frames else pixels, return_dict=False)
    latents = posterior.mode()
    latents = latents[:, :, 0] if frames else latents
    decoded = policy.vae.decode(latents.unsqueeze(2) if frames else latents, return_dict=False)[0]
    expected = ((decoded[:, :, 0] if frames else decoded) / 2 + 0.5).clamp(0, 1)
    expected = over_white(expected) if transparent else expected
    torch.testing.assert_close(policy.decode(tokens), expected, rtol=0, atol=2e-5)
    assert (latents.flatten(2).transpose(1, 2) if transparent else pack(latents)).shape == tokens.shape


def test_unknown_family_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "KolorsPipeline"}')
    with pytest.raises(
        ValueError, match=r"FluxPipeline.*Flux2KleinPipeline.*QwenImage21Pipeline, got 'KolorsPipeline'"
    ):
        family_of(str(tmp_path))
