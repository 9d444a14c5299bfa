"""8-bit copies of a transformer's frozen linear layers, for rollouts under LoRA adapters.

A rollout keeps no activations and needs no gradient, so its matrix products can run in 8 bits: the weights are
quantised once with a scale per output, the inputs at every call with a scale per row (dynamic). Both products are
torch's own, for CPUs and GPUs. Adapters keep their weights and their precision.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from srpo_ray.config.model import RolloutBaseType

_LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
"""Largest number of each 8-bit type."""
_DTYPES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
_FEWEST_ROWS = 17
"""Least number of rows in the product of int8 matrices on a GPU."""


class RolloutBase:
    """Blocks of a transformer that share everything with its own ones, except for copies of frozen linear layers."""

    def __init__(self, transformer: nn.Module, base: RolloutBaseType, lists: Sequence[str]) -> None:
        """Quantise the layers. They must be on their device, with their final weights.

        Args:
            transformer: Transformer with adapters, compiled or not; it does not change.
            base: Type of the copies.
            lists: Names of its lists of blocks.
        """
        self._transformer = transformer
        self._lists: dict[str, nn.ModuleList] = {}
        for name in lists:
            blocks = getattr(transformer, name)
            copies: dict[nn.Module, nn.Module] = {
                layer: DynamicLinear8Bit(layer, base) for layer in copied_layers(blocks)
            }
            self._lists[name] = _with_copies(blocks, copies)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Use the copies in the transformer's calls; its own blocks are restored at the end."""
        originals = {name: getattr(self._transformer, name) for name in self._lists}
        try:
            for name, blocks in self._lists.items():
                setattr(self._transformer, name, blocks)
            yield
        finally:
            for name, blocks in originals.items():
                setattr(self._transformer, name, blocks)


class DynamicLinear8Bit(nn.Module):
    """Linear layer whose products are of 8-bit numbers, without gradient."""

    def __init__(self, layer: nn.Linear, base: RolloutBaseType) -> None:
        """Quantise the weights of a layer; the bias is shared.

        Args:
            layer: The layer, which does not change.
            base: Type of the copy.
        """
        super().__init__()
        numbers, scale = quantized_rows(layer.weight.detach(), _DTYPES[base])
        self.numbers = nn.Buffer(numbers)
        """Quantised weights `[out, in]`."""
        self.scale = nn.Buffer(scale)
        """Scale of each output `[out, 1]`, float32."""
        self.bias = layer.bias

    def forward(self, input: Tensor) -> Tensor:
        """Compute the layer's output."""
        rows = input.flatten(0, -2)
        numbers, scale = quantized_rows(rows, self.numbers.dtype)
        product = _int8_product if self.numbers.dtype == torch.int8 else _fp8_product
        out = product(numbers, scale, self.numbers, self.scale).to(input.dtype)
        out = out if self.bias is None else out + self.bias
        return out.unflatten(0, input.shape[:-1])


def quantized_rows(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Quantise each row with a scale of its own, which maps its largest magnitude to the largest 8-bit number.

    Args:
        rows: Numbers `[R, K]`.
        dtype: `torch.int8` or `torch.float8_e4m3fn`.

    Returns:
        8-bit numbers `[R, K]`, and scales `[R, 1]`, float32.
    """
    values = rows.float()
    # A row of zeros has no scale of its own.
    scale = values.abs().amax(1, keepdim=True).clamp(min=1e-12) / _LARGEST[dtype]
    scaled = values / scale
    return (scaled.round() if dtype == torch.int8 else scaled).clamp(-_LARGEST[dtype], _LARGEST[dtype]).to(dtype), scale


def copied_layers(module: nn.Module) -> Iterator[nn.Linear]:
    """Yield the layers of a block, or of a list of blocks, that get copies: the frozen linear ones that run on tokens.

    The layers of adaptive layer norms run on one row per image. A copy would take memory and save no time.
    """
    if isinstance(module, nn.Linear):
        if not module.weight.requires_grad:
            yield module
    elif "AdaLayerNorm" not in type(module).__name__:
        for child in module.children():
            yield from copied_layers(child)


def copy_bytes(shape: Sequence[int]) -> int:
    """Compute the bytes of the copy of one layer: its 8-bit weights, and a float32 scale for each output.

    Args:
        shape: Shape of the weights `[out, in]`.
    """
    rows, columns = shape
    return rows * columns + 4 * rows


def _with_copies(module: Any, copies: dict[nn.Module, nn.Module]) -> Any:
    """Return a module with the copies in the place of their layers, which shares all other modules and parameters."""
    if module in copies:
        return copies[module]
    children = {name: _with_copies(child, copies) for name, child in module.named_children()}
    if all(child is getattr(module, name) for name, child in children.items()):
        return module
    other = copy.copy(module)
    other._modules = {**module._modules, **children}  # noqa: SLF001, torch has no public access
    forward = vars(module).get("forward")
    if isinstance(forward, MethodType):
        # Compiled code, which is bound to the block. Torch compiles one more version for the copies.
        other.forward = MethodType(forward.__func__, other)
    return other


def _int8_product(rows: Tensor, row_scale: Tensor, weights: Tensor, scale: Tensor) -> Tensor:
    count = len(rows)
    if count < _FEWEST_ROWS:
        rows = nn.functional.pad(rows, (0, 0, 0, _FEWEST_ROWS - count))
    return torch._int_mm(rows, weights.t())[:count] * row_scale * scale.t()  # noqa: SLF001, torch has no public name


def _fp8_product(rows: Tensor, row_scale: Tensor, weights: Tensor, scale: Tensor) -> Tensor:
    # With a scale per row, GPUs return bfloat16 only.
    return torch._scaled_mm(rows, weights.t(), row_scale, scale.t(), out_dtype=torch.bfloat16)  # noqa: SLF001, as above
