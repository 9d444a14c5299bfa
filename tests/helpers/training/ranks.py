"""Runs a function on several gloo ranks in processes of their own, and collects what rank 0 returns."""

import faulthandler
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing

TIMEOUT_S = 300
"""Seconds after which a rank prints where it is and ends; the test fails then. A busy machine needs some."""

# One process imports what ranks import, once for all tests; every rank is a copy of it.
multiprocessing.set_forkserver_preload(["tests.helpers.training.rank_imports"])


def run_ranks(function: Callable[..., Any], world_size: int, folder: Path, *arguments: Any) -> Any:
    """Call `function(*arguments)` on every rank; rank 0's result comes back through a file in `folder`.

    Raises:
        ProcessRaisedException: If a rank raises, with its traceback; the other ranks are ended.
        ProcessExitedException: If a rank dies or takes too long; its stack is on stderr.
    """
    meeting, result = folder / "meeting", folder / f"{function.__name__}_{world_size}.pt"
    meeting.unlink(missing_ok=True)
    settings = (world_size, meeting, function, arguments, result)
    multiprocessing.start_processes(_rank, settings, nprocs=world_size, start_method="forkserver")
    return torch.load(result, weights_only=True)


def joined(mine: dict[str, Any]) -> dict[str, Any]:
    """Merge the values of all ranks, on every rank."""
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    return {name: value for part in parts for name, value in part.items()}


def _rank(
    rank: int, world_size: int, meeting: Path, function: Callable[..., Any], arguments: tuple[Any, ...], result: Path
) -> None:
    faulthandler.enable()
    faulthandler.dump_traceback_later(TIMEOUT_S, exit=True)
    torch.set_num_threads(1)
    # All are copies of one process, with one state of its generator.
    torch.manual_seed(rank)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    # Through a file: until rank 0 listens at a free port, another process may take it.
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size)
    value = function(*arguments)
    if rank == 0:
        torch.save(value, result)
    dist.destroy_process_group()
