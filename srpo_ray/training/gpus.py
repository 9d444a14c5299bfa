"""GPUs of the trainer workers: each worker needs one that no other worker uses."""

import os
from collections import defaultdict
from collections.abc import Sequence

_SHARED_GPU = "SRPO_RAY_SHARED_GPU"
"""Environment variable of a worker with the message of `shared_gpu`."""

GpusOfWorker = tuple[str, tuple[str, ...]]
"""Host of a worker, and ids of the GPUs that Ray reserved for it there."""


def shared_gpu(workers: Sequence[GpusOfWorker]) -> str:
    """Find a GPU that Ray gave to several workers, which happens with fractions of GPUs.

    Args:
        workers: Each worker's host and GPUs, in the order of ranks. Workers on the CPU have no GPU.

    Returns:
        A message that names the GPU and the workers; empty if every worker has GPUs of its own.
    """
    ranks: dict[tuple[str, str], list[int]] = defaultdict(list)
    for rank, (host, gpus) in enumerate(workers):
        for gpu in gpus:
            ranks[host, gpu].append(rank)
    for (host, gpu), sharing in ranks.items():
        if len(sharing) > 1:
            return (
                f"training.num_gpus: expected a GPU of its own for each worker, got GPU {gpu} of {host} for workers"
                f" {', '.join(map(str, sharing))}; set training.num_gpus=1, or start as many reward replicas as"
                " workers, each on more than half of a GPU"
            )
    return ""


def note_shared_gpu(message: str) -> None:
    """Give this worker the message of `shared_gpu`, before it trains.

    The process that starts the workers finds the message: two workers on one GPU cannot exchange it, as NCCL fails.
    """
    os.environ[_SHARED_GPU] = message


def require_own_gpu() -> None:
    """Stop a worker if two workers of its run share a GPU.

    Raises:
        ValueError: If two workers share a GPU.
    """
    message = os.environ.get(_SHARED_GPU)
    if message:
        raise ValueError(message)
