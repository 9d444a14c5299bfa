"""Measurements of the GPU day: seconds, busy time, TFLOP/s and memory of a piece of work, beside its prediction."""

import gc
import time
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
TOLERANCE = 1 / 3
"""Distance from a predicted range, as a share of its nearer end, up to which a prediction counts as met."""

Row = dict[str, Any]
Range = tuple[float | None, float | None]
"""Predicted lowest and highest value; None leaves an end open."""


def row(
    name: str,
    unit: str,
    measured: float,
    predicted: Range | None = None,
    *,
    tolerance: float = TOLERANCE,
    **more: Any,
) -> Row:
    """Build a row: a measured value beside its prediction.

    Args:
        name: What was measured.
        unit: Unit of the value.
        measured: The value.
        predicted: Predicted range; None has no verdict.
        tolerance: See `is_met`.
        more: Further figures.
    """
    return {
        "name": name,
        "unit": unit,
        "measured": measured,
        "predicted": predicted,
        "met": None if predicted is None else is_met(measured, predicted, tolerance),
        **more,
    }


def is_met(measured: float, predicted: Range, tolerance: float = TOLERANCE) -> bool:
    """Compare a value with its prediction.

    Args:
        measured: The value.
        predicted: Range of two ends, or a limit with one of them None.
        tolerance: Distance from a range, as a share of its nearer end, that still meets it. A limit has none.
    """
    low, high = predicted
    slack = tolerance if low is not None and high is not None else 0.0
    return (low is None or measured >= low * (1 - slack)) and (high is None or measured <= high * (1 + slack))


def timed(
    name: str,
    work: Callable[[], object],
    *,
    flops: float = 0.0,
    planned: int | None = None,
    predicted: Range | None = None,
    rounds: int = 5,
) -> Row:
    """Measure a piece of work: the median of several rounds, after two that are not counted.

    `idle_share` is the share of the time in which no kernel runs on the GPU: the share that the host determines. The
    profiler slows the host but not the kernels, so the busy time comes from a profiled round and the wall time from
    the others. On a CPU it is left out.

    Args:
        name: What is measured.
        work: The work.
        flops: Executed operations, recomputation included; 0 leaves TFLOP/s out.
        planned: Planned bytes beyond those that were there before.
        predicted: Predicted seconds.
        rounds: Number of counted rounds.
    """
    for _ in range(2):
        work()
    gc.collect()
    before = _reset_peak()
    walls = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        _synchronize()
        walls.append(time.perf_counter() - start)
    wall = median(walls)
    more: dict[str, Any] = {"rounds": rounds}
    if flops:
        more["tflops"] = flops / wall / 1e12
    if GPU:
        more["peak_gib"] = (torch.cuda.max_memory_allocated() - before) / 2**30
        intervals, kernels = _kernels(work)
        more["busy_s"] = busy_seconds(intervals)
        more["idle_share"] = max(0.0, 1 - more["busy_s"] / wall)
        more["attention_kernels"] = [each for each in kernels if _is_attention(each)]
    if planned is not None:
        more["planned_gib"] = planned / 2**30
    return row(name, "s", wall, predicted, **more)


def busy_seconds(intervals: Iterable[tuple[float, float]]) -> float:
    """Compute the length of the union of intervals, in seconds.

    Args:
        intervals: Start and end of each kernel, in microseconds. Kernels of several streams may overlap.
    """
    busy, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return busy / 1e6


def free() -> None:
    """Return unused memory of the GPU."""
    gc.collect()
    if GPU:
        torch.cuda.empty_cache()


def _kernels(work: Callable[[], object]) -> tuple[list[tuple[float, float]], list[str]]:
    """Run work under the profiler: intervals of its kernels, and their names."""
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        work()
        _synchronize()
    # An annotation spans kernels and the gaps between them.
    events = [
        event for event in trace.events() or () if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    names = sorted({event.name for event in events})
    return [(event.time_range.start, event.time_range.end) for event in events], names


def _is_attention(kernel: str) -> bool:
    return any(word in kernel.lower() for word in ("sdpa", "flash", "fmha", "softmax", "attention"))


def _reset_peak() -> int:
    if not GPU:
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _synchronize() -> None:
    if GPU:
        torch.cuda.synchronize()
