"""Acceleration of a transformer: attention kernels and compiled blocks."""

from typing import Any

import torch
from torch import nn

_BACKENDS = {"native": "native", "cudnn": "_native_cudnn", "flash": "flash", "flash_3": "_flash_3"}
"""Config value -> name in diffusers, for the kernels with a backward pass."""


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
    processors = transformer.attn_processors.values()
    if not all(hasattr(processor, "_attention_backend") for processor in processors):
        raise ValueError(
            f"model.attention: expected native for a {type(transformer).__name__}, which supports torch's attention"
            f" only, got {kernel!r}; remove it"
        )
    try:
        transformer.set_attention_backend(_BACKENDS[kernel])
    except (RuntimeError, ImportError) as error:
        raise ValueError(
            f"model.attention: expected a kernel that is installed on this machine, got {kernel!r} ({error}); install"
            " its package on every node, or use native"
        ) from error


def compile_blocks(transformer: nn.Module, blocks: tuple[str, ...], backend: str = "inductor") -> None:
    """Compile each repeated block in place; blocks of one class share the compiled code.

    Args:
        transformer: Transformer, changed in place; its state dict does not change.
        blocks: Names of the blocks' classes.
        backend: Backend of torch.compile.
    """
    # ZeRO sets hooks on the layers of the blocks, and `Engine.gathered` removes them temporarily. Without this guard,
    # code that was compiled with hooks would run without them, and vice versa.
    torch._dynamo.config.skip_nnmodule_hook_guards = False  # noqa: SLF001, torch has no other name for it
    for module in transformer.modules():
        if type(module).__name__ in blocks:
            module.compile(backend=backend)
