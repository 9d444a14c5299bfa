"""Runs that start from a LoRA file, against diffusers' own loading of the file, for every family."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from safetensors.torch import load_file, save_file
from torch import Tensor

from srpo_ray.config import RunConfig, apply
from srpo_ray.inference.export import COMFYUI_LORA, DIFFUSERS_LORA, save_weights
from srpo_ray.models.families import family_of
from srpo_ray.models.loading import load_transformer
from srpo_ray.models.lora_start import check_lora_start
from srpo_ray.models.trainable import load_base, load_tuned
from tests.helpers.models.tiny_families import SAVERS, length_keywords

RANK = 2
WITHOUT_GUIDANCE = {
    "krea2": {"guidance_scale": 0.0},
    "qwen_image": {"true_cfg_scale": 1.0},
    "qwen_image21": {"true_cfg_scale": 1.0},
}
"""Keywords of pipelines without guidance, where they are not a `guidance_scale` of 1."""
SCALE = 1.5
"""Alpha / rank of the files."""

KOHYA: dict[str, dict[str, list[str]]] = {
    "flux": {
        "lora_unet_double_blocks_0_img_attn_qkv": [f"transformer_blocks.0.attn.to_{each}" for each in "qkv"],
        "lora_unet_double_blocks_0_txt_attn_proj": ["transformer_blocks.0.attn.to_add_out"],
        "lora_unet_double_blocks_0_img_mlp_2": ["transformer_blocks.0.ff.net.2"],
        "lora_unet_single_blocks_0_linear2": ["single_transformer_blocks.0.proj_out"],
    },
    "flux2_klein": {
        "lora_unet_double_blocks_0_img_attn_qkv": [f"transformer_blocks.0.attn.to_{each}" for each in "qkv"],
        "lora_unet_double_blocks_0_txt_mlp_0": ["transformer_blocks.0.ff_context.linear_in"],
        "lora_unet_single_blocks_1_linear1": ["single_transformer_blocks.1.attn.to_qkv_mlp_proj"],
    },
    "z_image": {
        "lora_unet_layers_1_attention_to_q": ["layers.1.attention.to_q"],
        "lora_unet_layers_0_feed_forward_w2": ["layers.0.feed_forward.w2"],
    },
    "qwen_image": {
        "lora_unet_transformer_blocks_0_attn_to_add_out": ["transformer_blocks.0.attn.to_add_out"],
        "lora_unet_transformer_blocks_1_img_mlp_net_0_proj": ["transformer_blocks.1.img_mlp.net.0.proj"],
    },
}
"""Names of kohya's sd-scripts and musubi-tuner -> layers of diffusers that the adapter's outputs belong to, in turn."""
COMFYUI: dict[str, dict[str, list[str]]] = {
    "flux2": {
        "diffusion_model.double_blocks.0.txt_attn.qkv": [
            f"transformer_blocks.0.attn.add_{each}_proj" for each in "qkv"
        ],
        "diffusion_model.single_blocks.0.linear2": ["single_transformer_blocks.0.attn.to_out"],
    },
    "z_image": {"diffusion_model.layers.0.attention.to_k": ["layers.0.attention.to_k"]},
    "qwen_image": {"diffusion_model.transformer_blocks.0.attn.to_v": ["transformer_blocks.0.attn.to_v"]},
    "krea2": {
        "diffusion_model.blocks.1.attn.gate": ["transformer_blocks.1.attn.to_gate"],
        "diffusion_model.blocks.0.mlp.gate": ["transformer_blocks.0.ff.gate"],
        "diffusion_model.txtfusion.refiner_blocks.1.attn.wv": ["text_fusion.refiner_blocks.1.attn.to_v"],
    },
    "qwen_image21": {
        "diffusion_model.transformer_blocks.1.img_mlp.gate_layer": ["transformer_blocks.1.img_mlp.gate_layer"]
    },
}
"""Names of ComfyUI's own models -> layers of diffusers."""
KREA2: dict[str, tuple[str, str]] = {
    "blocks_0_attn_wq": ("blocks.0.attn.wq", "transformer_blocks.0.attn.to_q"),
    "blocks_1_attn_wo": ("blocks.1.attn.wo", "transformer_blocks.1.attn.to_out.0"),
    "blocks_0_attn_gate": ("blocks.0.attn.gate", "transformer_blocks.0.attn.to_gate"),
    "blocks_1_mlp_gate": ("blocks.1.mlp.gate", "transformer_blocks.1.ff.gate"),
    "txtfusion_layerwise_blocks_0_attn_wk": (
        "txtfusion.layerwise_blocks.0.attn.wk",
        "text_fusion.layerwise_blocks.0.attn.to_k",
    ),
    "txtfusion_refiner_blocks_1_mlp_down": (
        "txtfusion.refiner_blocks.1.mlp.down",
        "text_fusion.refiner_blocks.1.ff.down",
    ),
    "txtfusion_projector": ("txtfusion.projector", "text_fusion.projector"),
    "first": ("first", "img_in"),
    "last_linear": ("last.linear", "final_layer.linear"),
    "tmlp_2": ("tmlp.2", "time_embed.linear_2"),
    "txtmlp_1": ("txtmlp.1", "txt_in.linear_1"),
    "tproj_1": ("tproj.1", "time_mod_proj"),
}
"""Names of kohya's musubi-tuner for Krea 2, behind `lora_unet_` -> those of the authors' model, and of diffusers."""


def run_from(tiny_run: RunConfig, pipeline: Path, start: Path, mode: str, **lora: Any) -> RunConfig:
    values = {"rank": RANK, "start_from": str(start), "start_mode": mode, **lora}
    return apply(tiny_run, {"model.path": str(pipeline), "model.lora": values})


def drawn(path: str, name: str, transformer: Any = None, lora: Path | None = None) -> Tensor:
    pipeline_class: Any = getattr(diffusers, family_of(path).pipeline)
    pipeline = pipeline_class.from_pretrained(path, **({} if transformer is None else {"transformer": transformer}))
    pipeline.set_progress_bar_config(disable=True)
    if lora:
        pipeline.load_lora_weights(lora.parent, weight_name=lora.name)
    return pipeline(
        prompt=["a red circle on a gray background"],
        height=64,
        width=64,
        num_inference_steps=2,
        **length_keywords(name),
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
        **WITHOUT_GUIDANCE.get(name, {"guidance_scale": 1.0}),
    ).images


def matrices(shapes: Mapping[str, tuple[int, int]], rank: int = RANK) -> dict[str, tuple[Tensor, Tensor]]:
    source = torch.Generator().manual_seed(5)
    return {
        name: (torch.randn(rank, inputs, generator=source), 0.1 * torch.randn(outputs, rank, generator=source))
        for name, (outputs, inputs) in shapes.items()
    }


def weight_shapes(path: Path, layers: Mapping[str, list[str]]) -> dict[str, tuple[int, int]]:
    """Shapes of fused layers: the outputs of their parts, one after another."""
    transformer = load_transformer(str(path), torch.float32)
    shapes = {name: [transformer.get_parameter(f"{part}.weight").shape for part in layers[name]] for name in layers}
    return {name: (sum(each[0] for each in parts), parts[0][1]) for name, parts in shapes.items()}


def merged_by_hand(path: Path, layers: Mapping[str, list[str]], values: Mapping[str, tuple[Tensor, Tensor]]) -> Any:
    """The transformer with the product of each pair of matrices, computed in float64, divided among its layers."""
    transformer = load_transformer(str(path), torch.float32).eval()
    for name, parts in layers.items():
        down, up = values[name]
        delta = SCALE * up.double() @ down.double()
        weights = [transformer.get_parameter(f"{part}.weight") for part in parts]
        for weight, change in zip(weights, delta.split([len(each) for each in weights]), strict=True):
            weight.data = (weight.double() + change).float()
    return transformer


def own_layers(path: Path, tiny_run: RunConfig) -> dict[str, list[str]]:
    """Every layer that gets adapters by default."""
    run = apply(tiny_run, {"model.path": str(path), "model.lora": {"rank": RANK}})
    names = [name for name, _ in load_tuned(run, torch.float32, "cpu", None).named_parameters() if "lora_A" in name]
    return {name.partition(".lora_A")[0]: [name.partition(".lora_A")[0]] for name in names}


def save_diffusers(file: Path, values: Mapping[str, tuple[Tensor, Tensor]], alpha: float | None) -> Path:
    tensors = {
        f"transformer.{name}.{part}.weight": value
        for name, pair in values.items()
        for part, value in zip(("lora_A", "lora_B"), pair, strict=True)
    }
    adapters = {"r": RANK, "lora_alpha": alpha, "target_modules": [*values]}
    text = json.dumps({f"transformer.{key}": value for key, value in adapters.items()})
    save_file(tensors, file, {LORA_ADAPTER_METADATA_KEY: text} if alpha else None)
    return file


def save_named(file: Path, values: Mapping[str, tuple[Tensor, Tensor]], down: str, up: str) -> Path:
    """Write matrices with an alpha tensor for each layer."""
    tensors: dict[str, Tensor] = {}
    for name, pair in values.items():
        tensors |= {f"{name}.{down}.weight": pair[0], f"{name}.{up}.weight": pair[1]}
        tensors[f"{name}.alpha"] = torch.tensor(SCALE * len(pair[0]))
    save_file(tensors, file)
    return file


@pytest.mark.parametrize("name", SAVERS)
@pytest.mark.parametrize("alpha", [3.0, None])
def test_both_modes_draw_diffusers_images_of_its_own_file(
    tiny: Callable[[str], Path], name: str, alpha: float | None, tmp_path: Path, tiny_run: RunConfig
) -> None:
    path = tiny(name)
    values = matrices(weight_shapes(path, own_layers(path, tiny_run)))
    file = save_diffusers(tmp_path / DIFFUSERS_LORA, values, alpha)
    expected = drawn(str(path), name, lora=file)
    assert (expected - drawn(str(path), name)).abs().max() > 1e-3
    for run in (
        run_from(tiny_run, path, tmp_path, "continue", alpha=7),
        run_from(tiny_run, path, file, "merge", rank=3),
    ):
        check_lora_start(run.model)
        transformer = load_tuned(run, torch.float32, "cpu", None).eval()
        torch.testing.assert_close(drawn(str(path), name, transformer), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", KOHYA)
def test_kohyas_file_is_merged_as_by_diffusers_and_as_by_hand(
    tiny: Callable[[str], Path], name: str, tmp_path: Path, tiny_run: RunConfig
) -> None:
    path, layers = tiny(name), KOHYA[name]
    values = matrices(weight_shapes(path, layers))
    file = save_named(tmp_path / "kohya.safetensors", values, "lora_down", "lora_up")
    run = run_from(tiny_run, path, file, "merge")
    check_lora_start(run.model)
    found = drawn(str(path), name, load_base(run, torch.float32).eval())
    torch.testing.assert_close(found, drawn(str(path), name, lora=file), rtol=0, atol=1e-5)
    torch.testing.assert_close(found, drawn(str(path), name, merged_by_hand(path, layers, values)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("of_comfyui", [False, True])
def test_kohyas_file_of_krea_2_is_merged_as_by_diffusers_under_the_authors_names_and_as_by_hand(
    tiny: Callable[[str], Path], of_comfyui: bool, tmp_path: Path, tiny_run: RunConfig
) -> None:
    path = tiny("krea2")
    layers = {name: [layer] for name, (_, layer) in KREA2.items()}
    values = matrices(weight_shapes(path, layers))
    # diffusers reads the authors' names, with the scale in the matrix B.
    read = {f"diffusion_model.{KREA2[name][0]}": pair for name, pair in values.items()}
    tensors = {f"{name}.lora_A.weight": down for name, (down, _) in read.items()}
    tensors |= {f"{name}.lora_B.weight": SCALE * up for name, (_, up) in read.items()}
    (tmp_path / "authors").mkdir()
    save_file(tensors, tmp_path / "authors" / "lora.safetensors")
    # musubi-tuner's own file, and the one that it converts for ComfyUI.
    named = read if of_comfyui else {f"lora_unet_{name}": pair for name, pair in values.items()}
    file = save_named(tmp_path / "kohya.safetensors", named, "lora_down", "lora_up")
    run = run_from(tiny_run, path, file, "merge")
    check_lora_start(run.model)
    found, base = drawn(str(path), "krea2", load_base(run, torch.float32).eval()), drawn(str(path), "krea2")
    expected = drawn(str(path), "krea2", lora=tmp_path / "authors" / "lora.safetensors")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    by_hand = drawn(str(path), "krea2", merged_by_hand(path, layers, values))
    torch.testing.assert_close(found, by_hand, rtol=0, atol=1e-5)
    assert (found - base).abs().max() > 1e-3
    if not of_comfyui:
        assert torch.equal(drawn(str(path), "krea2", lora=file), base), "diffusers finds no layer in kohya's file"


def test_kohyas_file_of_krea_2_with_an_unknown_layer_is_refused(
    tiny: Callable[[str], Path], tmp_path: Path, tiny_run: RunConfig
) -> None:
    values = {"lora_unet_blocks_0_attn_wx": (torch.ones(RANK, 32), torch.ones(32, RANK))}
    file = save_named(tmp_path / "kohya.safetensors", values, "lora_down", "lora_up")
    with pytest.raises(ValueError, match=r"expected a LoRA that the Krea2Pipeline of diffusers reads, got .*attn\.wx"):
        check_lora_start(run_from(tiny_run, tiny("krea2"), file, "merge").model)


@pytest.mark.parametrize("name", COMFYUI)
def test_comfyuis_file_of_its_own_names_is_merged_with_its_alphas(
    tiny: Callable[[str], Path], name: str, tmp_path: Path, tiny_run: RunConfig
) -> None:
    path, layers = tiny(name), COMFYUI[name]
    values = matrices(weight_shapes(path, layers))
    file = save_named(tmp_path / "comfyui.safetensors", values, "lora_A", "lora_B")
    run = run_from(tiny_run, path, file, "merge")
    check_lora_start(run.model)
    expected = merged_by_hand(path, layers, values)
    found = load_base(run, torch.float32)
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[key], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", SAVERS)
def test_comfyuis_file_of_diffusers_names_is_continued_and_merged(
    tiny: Callable[[str], Path], name: str, tmp_path: Path, tiny_run: RunConfig
) -> None:
    path = tiny(name)
    layers = own_layers(path, tiny_run)
    values = matrices(weight_shapes(path, layers))
    named = {f"transformer.{layer}": pair for layer, pair in values.items()}
    file = save_named(tmp_path / COMFYUI_LORA, named, "lora_A", "lora_B")
    expected = drawn(str(path), name, merged_by_hand(path, layers, values))
    for mode in ("continue", "merge"):
        run = run_from(tiny_run, path, file, mode)
        check_lora_start(run.model)
        found = drawn(str(path), name, load_tuned(run, torch.float32, "cpu", None).eval())
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SAVERS)
def test_export_of_a_run_that_merged_a_lora_draws_its_images_from_the_published_model(
    tiny: Callable[[str], Path], name: str, tmp_path: Path, tiny_run: RunConfig
) -> None:
    path = tiny(name)
    layers = own_layers(path, tiny_run)
    # The merged LoRA lacks some of the trained layers, and has another rank.
    some = dict(list(layers.items())[::2])
    values = matrices(weight_shapes(path, some), rank=3)
    named = {f"transformer.{layer}": pair for layer, pair in values.items()}
    file = save_named(tmp_path / "merged.safetensors", named, "lora_A", "lora_B")
    run = run_from(tiny_run, path, file, "merge", alpha=4)
    transformer = load_tuned(run, torch.float32, "cpu", None).eval()
    source = torch.Generator().manual_seed(1)
    for value in transformer.parameters():
        if value.requires_grad:
            value.data = 0.3 * torch.randn(value.shape, generator=source)
    save_weights(transformer, run, tmp_path, torch.float32)
    expected = drawn(str(path), name, transformer)
    found = drawn(str(path), name, lora=tmp_path / DIFFUSERS_LORA)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)

    # ComfyUI patches each weight with lora_B @ lora_A * alpha / rank.
    tensors = load_file(tmp_path / COMFYUI_LORA)
    patched = load_transformer(str(path), torch.float32).eval()
    for layer in (key.removesuffix(".alpha") for key in tensors if key.endswith(".alpha")):
        down, up, alpha = (tensors[f"{layer}.{part}"] for part in ("lora_A.weight", "lora_B.weight", "alpha"))
        patched.get_parameter(f"{layer.removeprefix('transformer.')}.weight").data += up @ down * alpha / len(down)
    torch.testing.assert_close(drawn(str(path), name, patched), expected, rtol=0, atol=2e-5)
