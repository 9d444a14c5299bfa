"""What workers tell each other in plain Python; a process that trains with no others has itself alone."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import distributed as dist

T = TypeVar("T")


def rank_and_world_size() -> tuple[int, int]:
    """This worker's rank, and how many workers there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def gather(value: T) -> list[T]:
    """Every worker's value, in the order of their ranks, on every worker; all must call."""
    values: list[Any] = [value]
    if dist.is_initialized():
        values = [None] * dist.get_world_size()
        dist.all_gather_object(values, value)
    return values


def from_worker_0(find: Callable[[], T]) -> T:
    """What worker 0 finds, on every worker; all must call."""
    found: list[Any] = [find() if rank_and_world_size()[0] == 0 else None]
    if dist.is_initialized():
        dist.broadcast_object_list(found)
    return found[0]
