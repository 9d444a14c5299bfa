"""Exported adapters of every family in diffusers' own pipeline, and the layers that ComfyUI's file names."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from srpo_ray.config import RunConfig, apply
from srpo_ray.inference.export import COMFYUI_LORA, DIFFUSERS_LORA, save_weights
from srpo_ray.models.families import family_of
from srpo_ray.models.loading import load_transformer
from srpo_ray.models.trainable import add_adapters
from tests.helpers.models.tiny_families import SAVERS, length_keywords

PROMPTS = ["a red circle on a gray background"]
WITHOUT_GUIDANCE = {
    "krea2": {"guidance_scale": 0.0},
    "qwen_image": {"true_cfg_scale": 1.0},
    "qwen_image21": {"true_cfg_scale": 1.0},
}
"""Keywords of pipelines without guidance, where they are not a `guidance_scale` of 1."""


def lora_run(tiny_run: RunConfig, path: Path) -> RunConfig:
    return apply(tiny_run, {"model.path": str(path), "model.lora": {"rank": 2, "alpha": 4}})


def trained_transformer(run: RunConfig) -> Any:
    """The transformer with adapters that change its output."""
    transformer = load_transformer(run.model.path, torch.float32).eval()
    assert run.model.lora
    add_adapters(transformer, run.model.lora, seed=0)
    source = torch.Generator().manual_seed(1)
    for value in transformer.parameters():
        if value.requires_grad:
            value.data = 0.3 * torch.randn(value.shape, generator=source)
    return transformer


def drawn(pipeline: Any, name: str) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        prompt=list(PROMPTS),
        height=64,
        width=64,
        num_inference_steps=2,
        **length_keywords(name),
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
        **WITHOUT_GUIDANCE.get(name, {"guidance_scale": 1.0}),
    ).images


@pytest.mark.parametrize("name", SAVERS)
def test_pipeline_draws_the_trained_images_with_the_exported_adapters(
    tiny: Callable[[str], Path], name: str, tmp_path: Path, tiny_run: RunConfig
) -> None:
    run = lora_run(tiny_run, tiny(name))
    pipeline_class: Any = getattr(diffusers, family_of(run.model.path).pipeline)
    transformer = trained_transformer(run)
    save_weights(transformer, run, tmp_path, torch.float32)
    pipeline = pipeline_class.from_pretrained(run.model.path)
    base = drawn(pipeline, name)
    pipeline.load_lora_weights(tmp_path, weight_name=DIFFUSERS_LORA)
    found = drawn(pipeline, name)
    expected = drawn(pipeline_class.from_pretrained(run.model.path, transformer=transformer), name)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    assert (found - base).abs().max() > 1e-3


NAMED_BY_COMFYUI = {
    "flux2": (
        r"transformer_blocks\.\d+\.attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)",
        r"transformer_blocks\.\d+\.(ff|ff_context)\.linear_(in|out)",
        r"single_transformer_blocks\.\d+\.attn\.(to_qkv_mlp_proj|to_out)",
    ),
    "z_image": (
        r"(layers|context_refiner|noise_refiner)\.\d+\.attention\.(to_[qkv]|to_out\.0)",
        r"(layers|context_refiner|noise_refiner)\.\d+\.feed_forward\.w[123]",
    ),
    "qwen_image": (
        r"transformer_blocks\.\d+\.attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)",
        r"transformer_blocks\.\d+\.(img|txt)_mlp\.net\.(0\.proj|2)",
    ),
    "krea2": (
        r"transformer_blocks\.\d+\.(attn\.(to_[qkv]|to_out\.0)|ff\.(gate|up|down))",
        r"text_fusion\.(layerwise|refiner)_blocks\.\d+\.(attn\.(to_[qkv]|to_out\.0)|ff\.(gate|up|down))",
        r"transformer_blocks\.\d+\.attn\.to_gate",
        r"text_fusion\.(layerwise|refiner)_blocks\.\d+\.attn\.to_gate",
    ),
    "qwen_image21": (
        r"transformer_blocks\.\d+\.attn\.(to_[qkv]|to_out\.0)",
        r"transformer_blocks\.\d+\.img_mlp\.(gate_layer|proj|out)",
    ),
}
"""Names that ComfyUI takes behind `transformer.`: `flux_to_diffusers`, `z_image_to_diffusers` and `krea2_to_diffusers`
of its `comfy/utils.py`, and the layers of `comfy/ldm/qwen_image/model.py`, by `model_lora_keys_unet` of
`comfy/lora.py`, which names the two halves of a fused layer of Qwen-Image-2.1."""


@pytest.mark.parametrize("name", NAMED_BY_COMFYUI)
def test_comfyuis_file_names_only_layers_that_comfyui_knows(
    tiny: Callable[[str], Path], name: str, tmp_path: Path, tiny_run: RunConfig
) -> None:
    run = lora_run(tiny_run, tiny(name))
    save_weights(trained_transformer(run), run, tmp_path, torch.float32)
    layers = {key.removesuffix(".alpha") for key in load_file(tmp_path / COMFYUI_LORA) if key.endswith(".alpha")}
    known = re.compile("|".join(rf"transformer\.{pattern}" for pattern in NAMED_BY_COMFYUI[name]))
    assert [layer for layer in layers if not known.fullmatch(layer)] == []
    # Every pattern of the table is among the layers.
    assert all(any(re.fullmatch(rf"transformer\.{each}", layer) for layer in layers) for each in NAMED_BY_COMFYUI[name])
