"""Conversion between whole tensors and workers' equal shards, and calls of a module without ZeRO's hooks."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional


@contextmanager
def without_hooks(module: nn.Module) -> Iterator[None]:
    """Disable ZeRO's hooks on submodules: they gather and release weights around each call, which only costs time."""
    stashed: list[tuple[dict[int, Any], dict[int, Any]]] = []
    for submodule in module.modules():
        for hooks in forward_hooks(submodule):
            stashed.append((hooks, dict(hooks)))
            hooks.clear()
    try:
        yield
    finally:
        for hooks, kept in stashed:
            hooks.update(kept)


def forward_hooks(module: nn.Module) -> tuple[dict[int, Any], dict[int, Any]]:
    """Return the hooks before and after a module's call."""
    return module._forward_pre_hooks, module._forward_hooks  # noqa: SLF001, torch has no public access


def share_out(tensors: Iterable[tuple[str, Tensor | None]]) -> dict[str, Tensor]:
    """Distribute CPU copies round-robin: all workers gather each tensor, and each keeps and writes an equal share."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    return {name: on_cpu(tensor) for index, (name, tensor) in enumerate(tensors) if index % world_size == rank}


def on_cpu(value: Tensor | None) -> Tensor:
    """Copy a tensor of DeepSpeed to the CPU in float32."""
    assert value is not None, "DeepSpeed has no such state"
    return value.detach().float().cpu().clone()


def cut(value: Tensor, size: int) -> Tensor:
    """Cut this worker's shard of `size` elements out of a whole tensor. ZeRO-3 pads the last shard."""
    start = dist.get_rank() * size
    part = value.flatten()[start : start + size]
    # A copy, because a view would keep the whole tensor in memory.
    return functional.pad(part, (0, size - part.numel())) if part.numel() < size else part.clone()


def join(shard: Tensor, shape: torch.Size) -> Tensor:
    """Gather a whole tensor from the workers' shards, which must be on the GPU for NCCL."""
    parts = shard.new_empty(shard.numel() * dist.get_world_size())
    dist.all_gather_into_tensor(parts, shard)
    return parts[: shape.numel()].view(shape)
