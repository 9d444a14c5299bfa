"""Qwen-Image-2.1: images that depend on their own prompt alone, transparency, and the steps of its Turbo model."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import diffusers
import pytest
import torch
from diffusers.configuration_utils import FrozenDict
from torch import Tensor, nn

from srpo_ray.config import RunConfig, apply
from srpo_ray.config.model import ModelConfig
from srpo_ray.config.size import ImageSize
from srpo_ray.models.distilled import check_guidance, distilled_note, is_distilled
from srpo_ray.models.loading import load_transformer, load_vae
from srpo_ray.models.prompt_length import cut_prompts
from srpo_ray.models.qwen_image21 import QwenImage21Policy
from srpo_ray.models.sigma_grid import scheduler_note, sigma_grid
from srpo_ray.models.sizes import check_sizes, stored_config
from srpo_ray.models.text_encoders import encode_prompts
from tests.helpers.models.tiny_families import save_tiny_qwen_image21

LENGTH = 192
SHORT, LONG = "a blue square", "a red circle on a gray background, and far behind it a row of green hills"


@pytest.fixture
def path(tiny: Callable[[str], Path]) -> str:
    return str(tiny("qwen_image21"))


def policy_for(path: str, resolution: int | tuple[int, int] = 64) -> QwenImage21Policy:
    transformer = load_transformer(path, torch.float32).eval()
    return QwenImage21Policy(
        transformer, load_vae(path, torch.float32), transformer.config, resolution=resolution, dtype=torch.float32
    )


def noise_for(policy: QwenImage21Policy, count: int) -> Tensor:
    return policy.noise([torch.Generator().manual_seed(seed) for seed in range(count)])


def pipeline_of(path: str) -> Any:
    pipeline = diffusers.QwenImage21Pipeline.from_pretrained(path)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_image_depends_on_its_own_prompt_alone_whatever_the_others_of_its_batch(
    path: str, guidance_scale: float
) -> None:
    policy, grid = policy_for(path), sigma_grid(ModelConfig(path=path))(3, "scheduler")
    conditioning = encode_prompts(path, [SHORT, LONG, " "], LENGTH)
    policy.empty_prompt = conditioning[2:]
    noise = noise_for(policy, 2)
    together = policy.rollout(noise, conditioning[:2], grid, guidance_scale)
    alone = policy.rollout(noise[:1], encode_prompts(path, [SHORT], LENGTH), grid, guidance_scale)
    assert torch.equal(together[:1], alone)
    # In one call of diffusers' pipeline, the image moves with the longest prompt.
    batch, single = (
        pipeline_of(path)(
            prompt=prompts,
            height=64,
            width=64,
            num_inference_steps=3,
            latents=noise[: len(prompts)],
            output_type="latent",
        ).images[:1]
        for prompts in ([SHORT, LONG], [SHORT])
    )
    assert (batch - single).norm() > 1e-4 * single.norm()


def test_each_sample_has_a_call_of_its_own_also_if_all_texts_are_equally_long(path: str) -> None:
    policy = policy_for(path)
    network, calls = cast(nn.Module, policy.network), list[dict[str, Any]]()
    network.register_forward_pre_hook(lambda *given: calls.append(given[2]), with_kwargs=True)
    conditioning = encode_prompts(path, [SHORT, LONG, SHORT], LENGTH)
    pipeline = pipeline_of(path)
    for samples in ([0, 1, 2], [0, 2, 0]):
        calls.clear()
        with torch.no_grad():
            policy.velocity(noise_for(policy, 3), torch.full((3,), 0.5), conditioning[samples], 1.0)
        expected = [pipeline.encode_prompt([[SHORT, LONG, SHORT][index]])[0].shape[1] for index in samples]
        assert [call["encoder_hidden_states"].shape[:2] for call in calls] == [(1, length) for length in expected]


def test_features_of_a_longer_text_are_the_first_of_the_whole_one_and_a_note_names_it(path: str) -> None:
    whole = pipeline_of(path).encode_prompt([LONG])[0]
    cut = encode_prompts(path, [LONG], whole.shape[1] - 20).prompt_embeds
    torch.testing.assert_close(cut[..., :-1], whole[:, :-20], rtol=0, atol=1e-6)
    assert bool((cut[..., -1] == 1).all())
    assert cut_prompts(path, [SHORT, LONG], whole.shape[1]) == []
    (note,) = cut_prompts(path, [SHORT, LONG], whole.shape[1] - 1)
    assert (note.encoder, note.texts) == ("Qwen3-VL", [LONG])


class FourChannels:
    """Autoencoder whose images are its latents: red, green, blue and transparency in [-1, 1]."""

    dtype = torch.float32
    config = FrozenDict(
        latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.0, 2.0, 0.5, 0.25], z_dim=4, temperal_downsample=[True] * 4
    )

    def decode(self, latents: Tensor, return_dict: bool) -> tuple[Tensor]:
        assert not return_dict
        return (latents,)


def test_images_lie_over_white_and_gradients_reach_colors_and_transparency() -> None:
    policy = QwenImage21Policy(
        lambda **_: (torch.empty(0),), FourChannels(), {}, resolution=(32, 64), dtype=torch.float32
    )
    mean, deviation = (torch.tensor(FourChannels.config[key]) for key in ("latents_mean", "latents_std"))
    pixels = torch.rand(1, 8, 4, generator=torch.Generator().manual_seed(0)).mul(1.8).sub(0.9)
    tokens = ((pixels - mean) / deviation).requires_grad_()
    image = policy.decode(tokens)
    assert image.shape == (1, 3, 2, 4)
    shown = (pixels.double() + 1) / 2
    colors, alpha = shown[..., :3], shown[..., 3:]
    expected = (colors * alpha + 1 - alpha).reshape(1, 2, 4, 3).permute(0, 3, 1, 2)
    torch.testing.assert_close(image.double(), expected, rtol=0, atol=1e-6)
    image.sum().backward()
    by_color = alpha.expand(-1, -1, 3) / 2 * deviation[:3]
    by_alpha = (colors - 1).sum(dim=2, keepdim=True) / 2 * deviation[3]
    assert tokens.grad is not None
    torch.testing.assert_close(tokens.grad.double(), torch.cat([by_color, by_alpha], dim=2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [ImageSize(720, 720), ImageSize(1024, 1040)])
def test_sides_that_are_no_multiples_of_32_pixels_are_refused(path: str, size: ImageSize) -> None:
    check_sizes(path, {"model.resolution": ImageSize(1024, 736)}, stored_config(path))
    with pytest.raises(ValueError, match=rf"model.resolution: expected multiples of 32 .* got {re.escape(str(size))};"):
        check_sizes(path, {"model.resolution": size}, stored_config(path))


SIGMAS = [1.0, 0.95, 0.7, 0.4]
"""Sigmas of a Turbo model for four steps; those of Qwen-Image-2.1-Turbo are eight."""


@pytest.fixture
def turbo(tmp_path: Path) -> str:
    return str(save_tiny_qwen_image21(tmp_path / "turbo", sample_sigmas=SIGMAS))


def test_turbo_is_sampled_with_the_sigmas_of_its_pipeline(turbo: str) -> None:
    policy, grid = policy_for(turbo), sigma_grid(ModelConfig(path=turbo))(4, "scheduler")
    torch.testing.assert_close(grid, torch.tensor([*SIGMAS, 0.0], dtype=torch.float64), rtol=0, atol=1e-6)
    noise = noise_for(policy, 1)
    found = policy.rollout(noise, encode_prompts(turbo, [SHORT], LENGTH), grid, 1.0)
    expected = pipeline_of(turbo)(prompt=SHORT, height=64, width=64, latents=noise, output_type="latent").images
    assert ((found - expected).norm() / expected.norm()).item() < 1e-5


def test_turbo_takes_neither_other_steps_nor_guidance(turbo: str, path: str, tiny_run: RunConfig) -> None:
    with pytest.raises(ValueError, match=r"rollout.shift: expected 4 steps .* got 8; set each number of steps on this"):
        sigma_grid(ModelConfig(path=turbo))(8, "scheduler")
    assert "expected 4 steps" in str(scheduler_note(ModelConfig(path=turbo), 8, 3.0))
    assert [is_distilled(each) for each in (turbo, path)] == [True, False]
    assert "distilled to few sampler steps" in str(distilled_note(turbo))
    keys = [f"{section}.guidance_scale" for section in ("rollout", "algorithm", "evaluation")]
    guided = dict.fromkeys(keys, 3.5)
    check_guidance(apply(tiny_run, {"model.path": path, **guided}))
    with pytest.raises(ValueError, match=r"a guidance scale of 1, .* got rollout.guidance_scale=3.5"):
        check_guidance(apply(tiny_run, {"model.path": turbo, **guided}))


@pytest.mark.parametrize("sigmas", ['[1.0, "half"]', "0.5", "[]"])
def test_sigmas_that_are_no_list_of_numbers_are_refused(tmp_path: Path, sigmas: str) -> None:
    text = f'{{"_class_name": "QwenImage21Pipeline", "sample_sigmas": {sigmas}}}'
    (tmp_path / "model_index.json").write_text(text)
    with pytest.raises(ValueError, match=r"expected a list of numbers as sample_sigmas in the model_index.json"):
        is_distilled(str(tmp_path))
