"""Metrics of an update: seconds per stage, peak memory, and means of per-sample values over batches and workers."""

import math
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch import distributed as dist
from torch.profiler import record_function


class StageTimer:
    """Timer of the stages of an update on this worker, in seconds."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the block as `time/<name>`, and mark it as `<name>` in a profiler's trace."""
        start = time.perf_counter()
        try:
            with record_function(name):
                yield
        finally:
            if self._device.type == "cuda":
                # CUDA calls are asynchronous: without this, a stage would be charged for the work of the previous one.
                torch.cuda.synchronize(self._device)
            self._seconds[f"time/{name}"] = self._seconds.get(f"time/{name}", 0.0) + time.perf_counter() - start

    def take(self) -> dict[str, float]:
        """Return the seconds per stage since the last call, and reset them."""
        seconds, self._seconds = self._seconds, {}
        return seconds


class MeanMeter:
    """Meter of the means of per-sample values over all batches of an update and all workers."""

    def __init__(self, device: torch.device | str) -> None:
        # NCCL reduces tensors on the GPU only.
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, metrics: Mapping[str, Tensor], *, counted: bool = True) -> None:
        """Add per-sample values `[B]`, without a device synchronisation.

        Args:
            metrics: Values by name.
            counted: True if the means include the values; False registers their names only.
        """
        for name, values in metrics.items():
            total = values.detach().to(self._device, torch.float32).sum() * counted
            self._sums[name] = self._sums[name] + total if name in self._sums else total
            self._counts[name] = self._counts.get(name, 0) + values.numel() * counted

    def take(self) -> dict[str, float]:
        """Return the means over all workers since the last call. All workers must call, with the same names.

        A name without any value is left out.
        """
        names = sorted(self._sums)
        counts = torch.tensor([float(self._counts[name]) for name in names], device=self._device)
        table = torch.stack([torch.stack([self._sums[name] for name in names]), counts])
        dist.all_reduce(table)
        self._sums, self._counts = {}, {}
        means = zip(names, *table.tolist(), strict=True)
        return {name: total / count for name, total, count in means if count}


def peak_memory(device: torch.device) -> float:
    """Return the peak memory so far in GiB: of the GPU's allocator, or of this process when training on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def require_finite(update: int, metrics: Mapping[str, float]) -> None:
    """Check the losses and the gradient norm of an update, before a checkpoint stores the weights.

    Args:
        update: Index of the update, from 0.
        metrics: Metrics of the update.

    Raises:
        ValueError: If one is infinite or not a number, so that the weights have become useless.
    """
    for name, value in metrics.items():
        if name.startswith(("loss/", "update/gradient_norm")) and not math.isfinite(value):
            raise ValueError(
                f"expected a finite {name} in update {update}, got {value}; the weights are lost, but checkpoints of"
                " earlier updates are not: lower training.optimizer.lr or training.optimizer.max_grad_norm, or raise an"
                " anchor, and start the run again to continue from the newest one"
            )
