"""Between whole tensors and the equal parts that workers hold of them, and calls of a module without ZeRO's hooks."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional


@contextmanager
def without_hooks(module: nn.Module) -> Iterator[None]:
    """Call submodules without ZeRO's hooks, which gather and release weights around each and so cost time in vain."""
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
    """Hooks before and after a module's call."""
    return module._forward_pre_hooks, module._forward_hooks  # noqa: SLF001, torch has no other way


def share_out(tensors: Iterable[tuple[str, Tensor | None]]) -> dict[str, Tensor]:
    """Copies on the CPU of the workers in turn: all take part in each, and each keeps, and writes, an equal share."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    return {name: on_cpu(tensor) for index, (name, tensor) in enumerate(tensors) if index % world_size == rank}


def on_cpu(value: Tensor | None) -> Tensor:
    """A float32 copy of a tensor that DeepSpeed holds."""
    assert value is not None, "DeepSpeed holds no such state"
    return value.detach().float().cpu().clone()


def cut(value: Tensor, size: int) -> Tensor:
    """This worker's part, of `size` elements, of a whole tensor; ZeRO-3 pads the last part."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    flat = functional.pad(value.flatten(), (0, size * world_size - value.numel()))
    return flat[rank * size : (rank + 1) * size]


def join(shard: Tensor, shape: torch.Size) -> Tensor:
    """The whole tensor of which every worker has a part; on a GPU's device, as NCCL takes no tensors of the host."""
    parts = shard.new_empty(shard.numel() * dist.get_world_size())
    dist.all_gather_into_tensor(parts, shard)
    return parts[: shape.numel()].view(shape)
