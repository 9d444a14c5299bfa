"""Frozen transformers with quantised weights, which are loaded and quantised layer by layer on their device."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from srpo_ray.config.model import BaseType
from srpo_ray.extras import require_package
from srpo_ray.models.merged_lora import MergedLora
from srpo_ray.models.weight_files import WeightFiles

PACKAGES: dict[BaseType, str] = {"nf4": "bitsandbytes", "int8": "torchao", "fp8": "torchao"}
"""Package of each type of weights."""
_FP8_CAPABILITY = (8, 9)
"""Least compute capability of an NVIDIA GPU with 8-bit floats: Ada, Hopper and newer."""

_FLOAT = 4
_NF4_BLOCK, _NF4_NESTED_BLOCK = 64, 256
"""Weights with one scale, and scales with one scale of their own, in bitsandbytes."""
_NF4_TABLES = 16 + 256 + 1
"""float32 numbers that each layer has besides: the values of the 16 codes and of the scales' 256, and their mean."""


def check_base(base: BaseType | None, device: str) -> None:
    """Check that this machine supports a type of weights, before a model is loaded.

    Args:
        base: Type of the weights; None for weights that are not quantised.
        device: Device of the transformer.

    Raises:
        ValueError: If the type's package is missing, or the GPU has no 8-bit floats.
    """
    if base is None:
        return
    require_package(PACKAGES[base], "quantization", f"model.base={base}", "remove model.base")
    check_8_bit_floats(base, device, "model.base")


def check_8_bit_floats(base: BaseType | None, device: str, option: str) -> None:
    """Check that a device has 8-bit floats if they are asked for.

    Args:
        base: Type of the weights.
        device: Device of the transformer.
        option: Key of the config that asks for it.

    Raises:
        ValueError: If the type is `fp8` and the GPU has no 8-bit floats.
    """
    if base != "fp8" or device == "cpu":
        return
    capability = torch.cuda.get_device_capability(device)
    if capability < _FP8_CAPABILITY:
        raise ValueError(
            f"expected a GPU of compute capability 8.9 or higher for {option}=fp8, got"
            f" {'.'.join(map(str, capability))}; use an Ada, Hopper or newer GPU, or {option}=int8"
        )


def load_quantized(
    model_class: Any,
    path: str,
    config: Any,
    base: BaseType,
    blocks: tuple[str, ...],
    dtype: torch.dtype,
    device: str,
    merged: MergedLora | None = None,
) -> Any:
    """Load a transformer whose blocks have quantised linear layers. The device never holds them in full precision.

    Args:
        model_class: Class of the transformer in diffusers.
        path: Folder or hub id of the pipeline, or `small_world`.
        config: The transformer's config.
        base: Type of the quantised weights.
        blocks: Names of the classes of the transformer's repeated blocks.
        dtype: Data type of the computations, and of the other weights.
        device: Device of the weights.
        merged: LoRA that is added to the weights before they are quantised.

    Returns:
        The transformer, frozen.

    Raises:
        ValueError: If the files have not exactly the weights of the model, or cannot be read, or the LoRA has other
            layers.
    """
    # Only the weights are without data: Qwen-Image keeps its rotations in tensors that are neither weights nor buffers.
    with init_empty_weights(include_buffers=False):
        transformer = model_class.from_config(config)
    nn.Module.to(transformer, dtype)
    transformer.requires_grad_(False)
    files = WeightFiles(path, "transformer")
    shapes = {name: value.shape for name, value in transformer.state_dict().items()}
    files.require(shapes, model_class.__name__)
    if merged:
        merged.check(shapes)
    layers = quantized_layers(transformer, blocks)
    for name, tensor in files:
        layer, _, leaf = name.rpartition(".")
        weight = merged.added(name, tensor.to(dtype)) if merged else tensor.to(dtype)
        if layer in layers and leaf == "weight":
            _quantize(transformer, layer, weight, base, device)
        else:
            _place(transformer.get_submodule(layer), leaf, weight.to(device))
    # peft looks for it before it adds adapters to layers of bitsandbytes.
    transformer.is_loaded_in_4bit = base == "nf4"
    return transformer


def quantized_layers(transformer: nn.Module, blocks: tuple[str, ...]) -> set[str]:
    """Find the names of the linear layers inside a transformer's repeated blocks: nearly all of its weights."""
    return {
        f"{block}.{name}"
        for block, module in transformer.named_modules()
        if type(module).__name__ in blocks
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
    }


def stored_bytes(base: BaseType, shape: Sequence[int]) -> int:
    """Compute the bytes of one layer's quantised weights and their scales.

    Args:
        base: Type of the weights.
        shape: Shape of the weights `[out, in]`.
    """
    rows, columns = shape
    if base != "nf4":
        return rows * columns + rows * _FLOAT
    scales = -(-rows * columns // _NF4_BLOCK)
    scales_of_scales = -(-scales // _NF4_NESTED_BLOCK)
    return -(-rows * columns // 2) + scales + _FLOAT * (scales_of_scales + _NF4_TABLES)


def dequantized(layer: Any) -> Tensor:
    """Return the weights of a linear layer `[out, in]`, dequantised if they are quantised."""
    state = getattr(layer.weight, "quant_state", None)
    if state is not None:
        return importlib.import_module("bitsandbytes.functional").dequantize_4bit(layer.weight.data, state)
    return layer.weight.dequantize() if isinstance(layer, Linear8Bit) else layer.weight


class Linear8Bit(nn.Linear):
    """Linear layer with frozen 8-bit weights, which keeps no dequantised copy of them for the backward pass."""

    def forward(self, input: Tensor) -> Tensor:
        """Compute the layer's output."""
        return _Dequantizing.apply(input, self.weight, self.bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # The weights are on their device already, and torch cannot replace torchao's tensors that others refer to.
        weight = self._parameters.pop("weight")
        try:
            return super()._apply(fn, recurse)
        finally:
            self._parameters = {"weight": weight, **self._parameters}


class _Dequantizing(torch.autograd.Function):
    """Linear map whose frozen weights are dequantised anew in the backward pass."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return nn.functional.linear(rows, weight.dequantize(), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0] @ ctx.weight.dequantize(), None, None


def _quantize(transformer: nn.Module, name: str, weight: Tensor, base: BaseType, device: str) -> None:
    """Give a layer its quantised weights, and mark them as not to be broadcast: every worker reads the same file."""
    layer: Any = transformer.get_submodule(name)
    if base == "nf4":
        layer = _nf4(layer, weight, device)
        transformer.set_submodule(name, layer)
    else:
        layer.weight = nn.Parameter(weight.to(device), requires_grad=False)
        quantization = importlib.import_module("torchao.quantization")
        kinds = {"int8": quantization.Int8WeightOnlyConfig, "fp8": quantization.Float8WeightOnlyConfig}
        quantization.quantize_(layer, kinds[base]())
        layer.__class__ = Linear8Bit
    weights: Any = layer.weight
    weights.ds_optim_param = True


def _nf4(layer: nn.Linear, weight: Tensor, device: str) -> nn.Module:
    """Replace a layer by one of 4-bit weights, whose scales are quantised too (QLoRA, arXiv 2305.14314)."""
    bnb = importlib.import_module("bitsandbytes")
    packed = bnb.nn.Linear4bit(
        layer.in_features,
        layer.out_features,
        layer.bias is not None,
        compute_dtype=weight.dtype,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    packed.weight = bnb.nn.Params4bit(
        weight, requires_grad=False, compress_statistics=True, quant_type="nf4", module=packed
    ).to(device)
    packed.bias = layer.bias
    return packed


def _place(module: nn.Module, name: str, value: Tensor) -> None:
    if name in module._parameters:  # noqa: SLF001, torch has no public access
        module.register_parameter(name, nn.Parameter(value, requires_grad=False))
    else:
        module.register_buffer(name, value)
