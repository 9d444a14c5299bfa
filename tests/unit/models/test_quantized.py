"""Quantised base models: their weights, gradients and bytes, and machines that cannot have them."""

import importlib.util
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from srpo_ray.config.model import BaseType
from srpo_ray.models import loading
from srpo_ray.models.families import FLUX
from srpo_ray.models.loading import load_transformer
from srpo_ray.models.lora_files import LoraLayer
from srpo_ray.models.merged_lora import MergedLora
from srpo_ray.models.quantized import PACKAGES, check_base, dequantized, quantized_layers, stored_bytes
from srpo_ray.models.trainable import add_adapters
from tests.helpers.models.tiny_pipeline import LORA, plain_copy, save_tiny_flux, with_adapters
from tests.helpers.training.tiny_flux import batches, call, losses, relative_error, tiny_transformer

BASES = [
    pytest.param(base, marks=pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"needs {package}"))
    for base, package in PACKAGES.items()
]
NF4_GAP = 0.1520
"""Half of the widest gap between two of the 16 values of NF4, in shares of a block's largest weight."""


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_flux(tmp_path_factory.mktemp("flux"))


@pytest.mark.parametrize("base", BASES)
def test_gradients_of_adapters_are_those_over_the_dequantised_weights(tiny_path: str, base: BaseType) -> None:
    network = load_transformer(tiny_path, torch.float32, base=base)
    reference = with_adapters(plain_copy(network))
    (batch,) = batches(range(1))
    found = gradients(with_adapters(network), batch)
    assert relative_error(found, gradients(reference, batch)) < 1e-5
    assert torch.allclose(call(network, batch[0], batch[2]), call(reference, batch[0], batch[2]), atol=1e-5)


def gradients(network: Any, batch: Any) -> dict[str, torch.Tensor]:
    losses(network, *batch).backward()
    return {name: value.grad for name, value in network.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("base", BASES)
def test_weights_differ_from_the_files_by_at_most_half_a_step(tiny_path: str, base: BaseType) -> None:
    file = load_file(Path(tiny_path) / "transformer/diffusion_pytorch_model.safetensors")
    network = load_transformer(tiny_path, torch.float32, base=base)
    layers = quantized_layers(network, FLUX.blocks)
    for name, value in network.named_parameters():
        layer, _, leaf = name.rpartition(".")
        if leaf != "weight" or layer not in layers:
            assert torch.equal(value, file[name])
            continue
        error, weights = (dequantized(network.get_submodule(layer)) - file[name]).abs(), file[name].abs()
        assert error.max() > 0
        largest = weights.amax(1, keepdim=True)
        if base == "int8":
            assert (error <= largest / 127 / 2 * 1.001).all()
        elif base == "fp8":
            # Three bits after the first, and the least step of the numbers next to 0.
            assert (error <= weights / 16 + largest / 448 * 2**-10).all()
        else:
            assert error.max() <= weights.max() * NF4_GAP * 1.05


@pytest.mark.parametrize("base", BASES)
def test_layers_of_the_blocks_take_the_bytes_of_the_plan_and_keep_no_copy(tiny_path: str, base: BaseType) -> None:
    network = load_transformer(tiny_path, torch.bfloat16, base=base)
    linear = {name: layer for name, layer in tiny_transformer().named_modules() if isinstance(layer, nn.Linear)}
    expected = {name for name in linear if "transformer_blocks." in name}
    assert quantized_layers(network, FLUX.blocks) == expected
    for name in expected:
        assert held(network.get_submodule(name).weight) == stored_bytes(base, linear[name].weight.shape)
    saved: list[torch.Tensor] = []

    def keep(value: torch.Tensor) -> torch.Tensor:
        saved.append(value)
        return value

    layer = network.transformer_blocks[0].ff.net[2]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        layer(torch.ones(1, layer.in_features, dtype=torch.bfloat16, requires_grad=True))
    assert all(value.numel() < layer.in_features * layer.out_features for value in saved)


def held(weight: Any) -> int:
    """Bytes of all tensors of a quantised weight."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return sum(part.numel() * part.element_size() for part in (weight.qdata, weight.scale))
    parts = (weight.data, state.absmax, state.code, state.state2.absmax, state.state2.code, state.offset)
    return sum(part.numel() * part.element_size() for part in parts)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_start_the_same_whatever_the_base_is(tiny_path: str, base: BaseType, dtype: torch.dtype) -> None:
    found = load_transformer(tiny_path, dtype, base=base)
    plain = load_transformer(tiny_path, dtype)
    for network in (found, plain):
        add_adapters(network, LORA, seed=3)
    expected = {name: value for name, value in plain.named_parameters() if value.requires_grad}
    adapters = {name: value for name, value in found.named_parameters() if value.requires_grad}
    assert expected.keys() == adapters.keys()
    assert all(torch.equal(adapters[name].to(dtype), value) for name, value in expected.items())


@pytest.mark.parametrize("spoil", ["absent", "missing", "of another shape", "truncated"])
def test_files_of_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spoil: str) -> None:
    monkeypatch.setattr(loading, "check_base", lambda *_: None)
    path = save_tiny_flux(tmp_path)
    file = tmp_path / "transformer/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    name = "transformer_blocks.0.attn.to_q.weight"
    if spoil == "absent":
        file.unlink()
    elif spoil == "truncated":
        file.write_bytes(file.read_bytes()[:-1000])
    elif spoil == "missing":
        save_file({key: value for key, value in tensors.items() if key != name}, file)
    else:
        save_file({**tensors, name: tensors[name][1:].contiguous()}, file)
    shapes = r"\(18, 18\), got \(17, 18\)"
    said = {"absent": "without", "missing": rf"1 \({name}\) missing", "of another shape": shapes}
    with pytest.raises(ValueError, match=rf"model.path: .*{said.get(spoil, 'cannot be read')}"):
        load_transformer(path, torch.float32, base="int8")


@pytest.mark.parametrize("base", get_args(BaseType))
def test_type_without_its_package_is_refused(monkeypatch: pytest.MonkeyPatch, tiny_path: str, base: BaseType) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=rf"package {PACKAGES[base]} for model.base={base}.*remove model.base"):
        check_base(base, "cpu")
    with pytest.raises(ValueError, match=rf"package {PACKAGES[base]} for model.base={base}"):
        load_transformer(tiny_path, torch.float32, base=base)
    check_base(None, "cpu")


@pytest.mark.parametrize(("capability", "fits"), [((8, 0), False), ((8, 6), False), ((8, 9), True), ((9, 0), True)])
def test_8_bit_floats_need_an_ada_gpu(monkeypatch: pytest.MonkeyPatch, capability: Any, fits: bool) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: SimpleNamespace())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    check_base("int8", "cuda:0")
    if fits:
        check_base("fp8", "cuda:0")
        return
    with pytest.raises(ValueError, match=r"8.9 or higher for model.base=fp8, got 8\.\d; .*model.base=int8"):
        check_base("fp8", "cuda:0")


@pytest.mark.parametrize("base", BASES)
def test_lora_is_merged_before_the_weights_are_quantised(tiny_path: str, base: BaseType, tmp_path: Path) -> None:
    layer = "transformer_blocks.0.attn.to_q"
    source = torch.Generator().manual_seed(0)
    outputs, inputs = tiny_transformer().get_parameter(f"{layer}.weight").shape
    down, up = torch.randn(2, inputs, generator=source), torch.randn(outputs, 2, generator=source)
    merged = MergedLora("x", {layer: LoraLayer(down, up, 0.5)})
    found = load_transformer(tiny_path, torch.float32, base=base, merged=merged)
    # The same sum in the file of the published weights.
    folder = tmp_path / "merged"
    shutil.copytree(tiny_path, folder)
    file = folder / "transformer/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors[f"{layer}.weight"] += 0.5 * (up @ down)
    save_file(tensors, file)
    expected = load_transformer(str(folder), torch.float32, base=base)
    for name in quantized_layers(found, FLUX.blocks):
        assert torch.equal(dequantized(found.get_submodule(name)), dequantized(expected.get_submodule(name)))
