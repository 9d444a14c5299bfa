"""Settings that a model family does not support, and models that were distilled to few steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models import attention_dispatch

from srpo_ray.config import RunConfig, apply
from srpo_ray.inference.job import SamplingOptions
from srpo_ray.launch.preflight import check_inputs
from srpo_ray.models.attention import set_attention
from srpo_ray.models.distilled import check_guidance, distilled_note, is_distilled
from srpo_ray.models.families import FLUX, QWEN_IMAGE, SD3, Z_IMAGE, Family, family_of
from srpo_ray.models.family_checks import check_contrast_text, check_family
from srpo_ray.models.loading import load_transformer
from srpo_ray.models.prompt_length import check_text_length, cut_prompts
from srpo_ray.planning.hardware import Hardware
from srpo_ray.planning.plan import make_plan
from tests.helpers.models.tiny_families import SAVERS, save_tiny_flux2_klein


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("flux2", {"rollout.cache_threshold": 0.1}, r"cache_threshold: expected none with a Flux2Pipeline, .* got 0.1"),
        ("z_image", {"training.context_parallel": 2}, r"context_parallel: expected 1 with a ZImagePipeline, .* got 2"),
        ("sd3", {"model.attention": "cudnn"}, r"attention: expected native with a StableDif.*, got cudnn; remove"),
        ("z_image", {"model.attention": "flash"}, r"attention: expected native or cudnn with a ZIm.* got flash, which"),
        ("qwen_image", {"model.attention": "flash_3"}, r"attention: expected native or cudnn .* got flash_3, which"),
        (
            "qwen_image",
            {"model.vae_checkpointing": True},
            r"model.vae_checkpointing: expected false with a QwenImagePi",
        ),
        (
            "qwen_image21",
            {"model.compile": True, "training.zero_stage": 2},
            r"model.compile: expected false with a QwenImage21Pipe.* got true; rem",
        ),
        (
            "qwen_image",
            {"model.lora": {"rank": 2}, "evaluation.rl_guidance": 2, "evaluation.contrast_text": -0.5},
            r"evaluation.contrast_text: expected 0 or 1 with a QwenImageP.* got -0.5; set 0",
        ),
        ("qwen_image", {"model.vae_channels_last": True}, r"model.vae_channels_last: .* of videos .* got true; remove"),
    ],
)
def test_setting_that_the_family_lacks_is_refused(
    tiny: Callable[[str], Path], name: str, changes: dict[str, object], message: str, tiny_run: RunConfig
) -> None:
    usual = {"model.path": str(tiny(name)), "model.dtype": "bfloat16", "training.num_workers": 2}
    family = family_of(str(tiny(name)))
    kernel = "cudnn" if family.attention_kernels else "native"
    check_family(apply(tiny_run, {**usual, "model.attention": kernel}), family)
    run = apply(tiny_run, {**usual, **changes})
    with pytest.raises(ValueError, match=message):
        check_family(run, family)
    with pytest.raises(ValueError, match=message):
        make_plan(run, Hardware(gpu="H100"))


def test_settings_that_flux_has_are_accepted(tiny_run: RunConfig) -> None:
    changes = {"rollout.cache_threshold": 0.1, "model.vae_checkpointing": True, "model.vae_channels_last": True}
    check_family(apply(tiny_run, changes), family_of("small_world"))


@pytest.mark.parametrize(("family", "scale"), [(QWEN_IMAGE, 0.0), (Z_IMAGE, 1.0), (FLUX, -0.5), (SD3, 2.0)])
def test_texts_are_scaled_without_a_mask_and_replaced_by_the_empty_one_with_any(family: Family, scale: float) -> None:
    check_contrast_text("--contrast-text", scale, family)


@pytest.mark.parametrize("name", SAVERS)
def test_kernel_can_be_chosen_for_every_attention_of_the_families_that_say_so(
    tiny: Callable[[str], Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # diffusers' choice for a transformer also becomes that of all models of the process.
    registry = attention_dispatch._AttentionBackendRegistry
    monkeypatch.setattr(registry, "_active_backend", registry._active_backend)
    transformer = load_transformer(str(tiny(name)), torch.bfloat16)
    if not family_of(str(tiny(name))).attention_kernels:
        with pytest.raises(ValueError, match=r"expected native for a \w+, which supports torch's attention only"):
            set_attention(transformer, "cudnn")
        return
    set_attention(transformer, "cudnn")
    chosen = [module.processor._attention_backend for module in transformer.modules() if hasattr(module, "processor")]
    assert len(chosen) >= 2
    assert {each.value for each in chosen} == {"_native_cudnn"}


def with_guidance(tiny_run: RunConfig, path: str, scale: float) -> RunConfig:
    keys = [f"{section}.guidance_scale" for section in ("rollout", "algorithm", "evaluation")]
    return apply(tiny_run, {"model.path": path, **dict.fromkeys(keys, scale)})


def test_distilled_klein_with_guidance_is_refused_and_without_noted(tmp_path: Path, tiny_run: RunConfig) -> None:
    path = str(save_tiny_flux2_klein(tmp_path / "klein", distilled=True))
    alone = with_guidance(tiny_run, path, 1.0)
    check_guidance(alone)
    assert "distilled to few sampler steps" in str(distilled_note(path))
    with pytest.raises(ValueError, match=r"a guidance scale of 1, .* got rollout.guidance_scale=3.5, .*algorithm"):
        check_guidance(with_guidance(tiny_run, path, 3.5))
    assert SamplingOptions(guidance_scale=1).over(alone).evaluation.guidance_scale == 1
    with pytest.raises(ValueError, match=r"a guidance scale of 1, .* got --guidance-scale=4; set --guidance-scale=1"):
        SamplingOptions(guidance_scale=4).over(alone)


@pytest.mark.parametrize("name", ["flux2_klein", "z_image"])
def test_model_for_many_steps_takes_guidance(tiny: Callable[[str], Path], name: str, tiny_run: RunConfig) -> None:
    path = str(tiny(name))
    check_guidance(with_guidance(tiny_run, path, 3.5))
    assert distilled_note(path) is None


@pytest.mark.parametrize(
    ("pipeline", "folder", "expected"),
    [
        ("ZImagePipeline", "Z-Image-Turbo", True),
        ("ZImagePipeline", "Z-Image-De-Turbo", False),
        ("ZImagePipeline", "turbo_runs/Z-Image", False),
        ("ZImagePipeline", "models--Tongyi-MAI--Z-Image-Turbo/snapshots/f332072", True),
        ("StableDiffusion3Pipeline", "stable-diffusion-3.5-large-turbo", True),
        ("StableDiffusion3Pipeline", "stable-diffusion-3.5-large", False),
        ("QwenImagePipeline", "Qwen-Image", False),
    ],
)
def test_turbo_models_are_known_by_the_name_of_their_folder(
    tmp_path: Path, pipeline: str, folder: str, expected: bool
) -> None:
    path = tmp_path / folder
    path.mkdir(parents=True)
    (path / "model_index.json").write_text(f'{{"_class_name": "{pipeline}"}}')
    assert is_distilled(str(path)) == expected


@pytest.mark.parametrize(("guides", "expected"), [(False, True), (True, False)])
def test_flux_without_an_input_for_guidance_is_schnell_which_may_ignore_its_scale(
    tmp_path: Path, tiny_run: RunConfig, guides: bool, expected: bool
) -> None:
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text(f'{{"guidance_embeds": {str(guides).lower()}}}')
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    assert is_distilled(str(tmp_path)) == expected
    check_guidance(with_guidance(tiny_run, str(tmp_path), 3.5))


@pytest.mark.parametrize(
    ("name", "most"), [("flux2", 512), ("z_image", 1504), ("qwen_image", 1024), ("qwen_image21", 8191)]
)
def test_texts_without_room_for_a_prompt_or_too_long_are_refused(
    tiny: Callable[[str], Path], name: str, most: int
) -> None:
    path = str(tiny(name))
    # Each byte is a token of the tiny tokenizer, so a prompt of one letter has one token more than the template.
    (cut,) = cut_prompts(path, ["x"], 1)
    assert cut.texts == ["x"]
    least = next(length for length in range(1, most) if not cut_prompts(path, ["x"], length)) - 1
    for length in (least + 1, most):
        check_text_length(path, length)
    with pytest.raises(
        ValueError, match=rf"model.max_sequence_length: expected more than the {least} tokens .* got {least};"
    ):
        check_text_length(path, least)
    with pytest.raises(ValueError, match=rf"at most {most} with a \w+, got {most + 1}; set it to 512"):
        check_text_length(path, most + 1)


@pytest.mark.parametrize("name", ["qwen_image", "krea2"])
def test_template_and_its_uncounted_tokens_are_those_of_the_pipeline(tiny: Callable[[str], Path], name: str) -> None:
    path = tiny(name)
    family = family_of(str(path))
    pipeline: Any = getattr(diffusers, family.pipeline).from_pretrained(path)
    if name == "krea2":
        expected = f"{pipeline.prompt_template_encode_prefix}a cat{pipeline.prompt_template_encode_suffix}"
    else:
        expected = pipeline.prompt_template_encode.format("a cat")
    assert family.prompt_text(pipeline.tokenizer, "a cat") == expected
    assert family.template_tokens == pipeline.prompt_template_encode_start_idx
    template = len(pipeline.tokenizer(family.prompt_text(pipeline.tokenizer, ""))["input_ids"])
    # Each letter is a token of the tiny tokenizer, so the last one of 60 fits at this length and not below it.
    length = template + 60 - pipeline.prompt_template_encode_start_idx
    assert cut_prompts(str(path), ["x" * 60], length) == []
    (cut,) = cut_prompts(str(path), ["x" * 60], length - 1)
    assert (cut.limit, cut.texts) == (length - 1, ["x" * 60])


def test_krea_2_takes_texts_of_any_length_that_its_template_does_not_fill(tiny: Callable[[str], Path]) -> None:
    path = str(tiny("krea2"))
    check_text_length(path, 100_000)
    with pytest.raises(
        ValueError, match=r"expected more than the \d+ tokens of the template .* Krea2Pipeline, got 16;"
    ):
        check_text_length(path, 16)


def test_run_with_the_default_length_of_texts_is_refused_before_it_starts(
    tiny: Callable[[str], Path], tiny_run: RunConfig
) -> None:
    run = apply(tiny_run, {"model.path": str(tiny("z_image")), "rollout.guidance_scale": 1.0})
    with pytest.raises(
        ValueError, match=r"model.max_sequence_length: expected more than .* with a ZImagePipe.* got 16;"
    ):
        check_inputs(run)


def test_families_without_a_template_take_texts_of_any_length() -> None:
    check_text_length("small_world", 1)
