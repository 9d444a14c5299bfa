"""The same transformer, faster: other attention kernels, compiled blocks."""

from typing import Any

import torch
from torch import nn

_BACKENDS = {"native": "native", "cudnn": "_native_cudnn", "flash": "flash", "flash_3": "_flash_3"}
"""Kernels that have a backward pass, by their names in diffusers."""


def set_attention(transformer: Any, kernel: str) -> None:
    """Choose the attention kernel of a diffusers transformer.

    Args:
        transformer: Changed in place.
        kernel: `native`, `cudnn`, `flash` or `flash_3`.

    Raises:
        ValueError: If the kernel's package is not installed, or the transformer cannot change its attention.
    """
    if kernel == "native":
        return
    processors = transformer.attn_processors.values()
    if not all(hasattr(processor, "_attention_backend") for processor in processors):
        raise ValueError(
            f"model.attention: expected native for a {type(transformer).__name__}, whose attention always is torch's,"
            f" got {kernel!r}; remove it"
        )
    try:
        transformer.set_attention_backend(_BACKENDS[kernel])
    except (RuntimeError, ImportError) as error:
        raise ValueError(
            f"model.attention: expected a kernel that this machine has, got {kernel!r} ({error}); install its package"
            " on every node, or take native"
        ) from error


def compile_blocks(transformer: nn.Module, blocks: tuple[str, ...], backend: str = "inductor") -> None:
    """Compile each repeated block in place; blocks of one class share the compiled code.

    Args:
        transformer: Changed in place; its state dict stays as it is.
        blocks: Names of the blocks' classes.
        backend: Of torch.compile.
    """
    # ZeRO hooks the layers inside of the blocks, and `Engine.gathered` takes the hooks away for a while: without this
    # guard the code that was compiled for the one would run for the other.
    torch._dynamo.config.skip_nnmodule_hook_guards = False  # noqa: SLF001, torch has no other name for it
    for module in transformer.modules():
        if type(module).__name__ in blocks:
            module.compile(backend=backend)
