"""Acceleration of a transformer: attention kernels and compiled blocks."""

from types import MethodType
from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from torch import nn

_BACKENDS = {"native": "native", "cudnn": "_native_cudnn", "flash": "flash", "flash_3": "_native_flash"}
"""Config value -> name in diffusers, for the kernels with a backward pass.

diffusers' own `_flash_3` has none. torch's flash attention has one, and `_activate` puts the kernels of
FlashAttention 3 behind it.
"""

_CURES = {
    "cudnn": "it needs an NVIDIA GPU of compute capability 8.0 or higher",
    "flash": "install the package flash-attn on every node; it needs an NVIDIA GPU of compute capability 8.0 or higher",
    "flash_3": "install FlashAttention 3 (module flash_attn_interface) on every node; it needs a Hopper GPU, as H100",
}
_VERSIONS = 64
"""Maximum number of versions of a class of blocks that are compiled: shapes, gradient modes and kinds of input."""
_PROBED = (1, 128, 2, 128)
"""Shape of the probe: batch, tokens, heads, and the head size of FLUX."""


def check_attention(kernel: str, device: str) -> None:
    """Run a kernel forward and backward on a small tensor, before a model is loaded.

    Args:
        kernel: `native`, `cudnn`, `flash` or `flash_3`.
        device: Device of the transformer.

    Raises:
        ValueError: If the kernel or its backward pass does not run on this machine.
    """
    if kernel == "native":
        return
    query = torch.zeros(_PROBED, dtype=torch.bfloat16, device=device, requires_grad=True)
    try:
        _activate(kernel)
        out = dispatch_attention_fn(query, query, query, backend=AttentionBackendName(_BACKENDS[kernel]))
        out.sum().backward()
    # `TypeError`: diffusers has None in the place of a function that it could not import.
    except (RuntimeError, ImportError, TypeError) as error:
        raise _not_usable(kernel, error) from error


def set_attention(transformer: Any, kernel: str) -> None:
    """Choose the attention kernel of a diffusers transformer.

    Args:
        transformer: Transformer, changed in place.
        kernel: `native`, `cudnn`, `flash` or `flash_3`.

    Raises:
        ValueError: If the kernel's package is not installed, or the transformer does not support other kernels.
    """
    if kernel == "native":
        return
    # Not `attn_processors`, which not all transformers have.
    processors = [module.processor for module in transformer.modules() if hasattr(module, "processor")]
    if not all(hasattr(processor, "_attention_backend") for processor in processors):
        raise ValueError(
            f"model.attention: expected native for a {type(transformer).__name__}, which supports torch's attention"
            f" only, got {kernel!r}; remove it"
        )
    try:
        _activate(kernel)
        transformer.set_attention_backend(_BACKENDS[kernel])
    except (RuntimeError, ImportError) as error:
        raise _not_usable(kernel, error) from error


def _activate(kernel: str) -> None:
    """Put FlashAttention 3 behind torch's flash attention, forward and backward, if the kernel is `flash_3`."""
    if kernel == "flash_3":
        torch.nn.attention.activate_flash_attention_impl("FA3")


def _not_usable(kernel: str, error: Exception) -> ValueError:
    reason = str(error).partition("\n")[0]
    return ValueError(
        f"model.attention: expected a kernel that runs on this machine, got {kernel!r} ({reason}); {_CURES[kernel]}, or"
        " use native"
    )


def compile_blocks(transformer: nn.Module, blocks: tuple[str, ...], backend: str = "inductor") -> None:
    """Compile the forward pass of each repeated block in place, as one graph without breaks.

    Blocks of one class share the compiled code, one version for each shape, gradient mode and kind of input. Hooks of a
    block, as ZeRO sets them to gather its weights, stay outside of the graph.

    Args:
        transformer: Transformer, changed in place; its modules and its state dict do not change.
        blocks: Names of the blocks' classes.
        backend: Backend of torch.compile.
    """
    # Beyond the limit, a graph without breaks is an error.
    torch._dynamo.config.recompile_limit = _VERSIONS  # noqa: SLF001, torch has no other name for it
    compiled: dict[type, Any] = {}
    for module in transformer.modules():
        kind = type(module)
        if kind.__name__ not in blocks:
            continue
        if kind not in compiled:
            # Rollouts, gradient steps and evaluations have batch sizes of their own, and static shapes are the fastest.
            compiled[kind] = torch.compile(kind.forward, backend=backend, fullgraph=True, dynamic=False)
        module.forward = MethodType(compiled[kind], module)
