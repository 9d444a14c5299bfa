"""Runs a function on several gloo ranks in processes of their own, and collects what rank 0 returns."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing

# One process imports torch, DeepSpeed and the model stack once; every rank is a copy of it.
multiprocessing.set_forkserver_preload(["srpo_ray.training.setup"])


def run_ranks(function: Callable[..., Any], world_size: int, folder: Path, *arguments: Any) -> Any:
    """Call `function(*arguments)` on every rank; rank 0's result comes back through a file in `folder`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    result = folder / f"{function.__name__}_{world_size}.pt"
    settings = (world_size, port, function, arguments, result)
    multiprocessing.start_processes(_rank, settings, nprocs=world_size, start_method="forkserver")
    return torch.load(result, weights_only=True)


def joined(mine: dict[str, Any]) -> dict[str, Any]:
    """What all ranks have together, on every rank."""
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    return {name: value for part in parts for name, value in part.items()}


def _rank(
    rank: int, world_size: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...], result: Path
) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    value = function(*arguments)
    if rank == 0:
        torch.save(value, result)
    dist.destroy_process_group()
