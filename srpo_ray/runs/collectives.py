"""Collectives for plain Python values; without a process group, a process is the only worker."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import distributed as dist

T = TypeVar("T")


def rank_and_world_size() -> tuple[int, int]:
    """Return this worker's rank and the number of workers."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def gather(value: T) -> list[T]:
    """Gather every worker's value, in the order of ranks, on every worker. All workers must call."""
    values: list[Any] = [value]
    if dist.is_initialized():
        values = [None] * dist.get_world_size()
        dist.all_gather_object(values, value)
    return values


def from_worker_0(find: Callable[[], T]) -> T:
    """Call a function on worker 0 and broadcast its result to every worker. All workers must call."""
    found: list[Any] = [find() if rank_and_world_size()[0] == 0 else None]
    if dist.is_initialized():
        dist.broadcast_object_list(found)
    return found[0]
