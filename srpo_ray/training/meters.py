"""Seconds per stage, and means of per-sample metrics over batches and workers."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch import distributed as dist


class StageTimer:
    """Adds up the seconds that this worker spends in each stage of an update."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the block as `time/<name>`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[f"time/{name}"] = self._seconds.get(f"time/{name}", 0.0) + time.perf_counter() - start

    def take(self) -> dict[str, float]:
        """The seconds per stage since the last call."""
        seconds, self._seconds = self._seconds, {}
        return seconds


class MeanMeter:
    """Means of per-sample values over all batches of an update and all workers."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Add per-sample values `[B]`; nothing is moved or waited for."""
        for name, values in metrics.items():
            total = values.detach().float().sum()
            self._sums[name] = self._sums[name] + total if name in self._sums else total
            self._counts[name] = self._counts.get(name, 0) + values.numel()

    def take(self) -> dict[str, float]:
        """The means over all workers since the last call; all workers must call, with the same names."""
        names = sorted(self._sums)
        table = torch.stack([torch.stack([self._sums[name].cpu() for name in names]),
                             torch.tensor([float(self._counts[name]) for name in names])])  # fmt: skip
        dist.all_reduce(table)
        self._sums, self._counts = {}, {}
        return dict(zip(names, (table[0] / table[1]).tolist(), strict=True))
