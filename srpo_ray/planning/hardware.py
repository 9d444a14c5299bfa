"""GPU models, and assumptions about a machine that are used unless a measured value is given."""

import math
from dataclasses import dataclass

from srpo_ray.config.budget import GpuName

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """GPU model, by its vendor's data sheet."""

    memory_gib: float
    """Total memory as torch reports it."""
    tflops: float
    """Peak of dense bfloat16 matrix products with float32 accumulation, in 10^12 operations per second."""
    share: float = 0.4
    """Share of the peak that training is assumed to reach, if no measured FLOP/s are given. 0.32 on an H100 and H200 is
    the published speed of FLUX.1-dev there without compilation: 28 steps at 1024 px, of 74.4 TFLOP each, in 6.57 s
    (diffusers-torchao)."""


_GPUS: dict[GpuName, Gpu] = {
    "A100-40GB": Gpu(39.4, 312),
    "A100-80GB": Gpu(79.1, 312),
    "A6000": Gpu(47.4, 155),
    "H20": Gpu(95.0, 148),
    "H100": Gpu(79.1, 989, share=0.32),
    "H200": Gpu(139.7, 989, share=0.32),
    "L40S": Gpu(44.4, 362),
    "RTX4090": Gpu(23.5, 165),
}
GPUS: dict[str, Gpu] = {**_GPUS}
"""GPU models by name."""

STORAGE_GBS = 1.0
"""10^9 bytes per second that all workers together write of a checkpoint, if none are given."""
CONTEXT_BYTES = int(0.6 * GIB)
"""Memory of the CUDA context and libraries of each process on a GPU."""
NCCL_BYTES = int(1.0 * GIB)
"""Memory of NCCL's channels on a GPU, if there are several workers."""
SLACK = 0.06
"""Fragmentation of torch's allocator and workspaces of kernels, as a share of the memory in tensors."""
PROCESS_BYTES = int(2.0 * GIB)
"""Host memory of an idle process with Python, torch and Ray."""
GPUS_PER_NODE = 8


_OPTIONS = {
    "memory_gib": "--gpu-memory",
    "tflops": "--tflops",
    "bandwidth_gbs": "--bandwidth",
    "gpus_per_node": "--gpus-per-node",
    "storage_gbs": "--storage",
}
"""Field of `Hardware` -> option of `srpo-ray plan`."""


@dataclass(frozen=True)
class Hardware:
    """Hardware that a run is planned for."""

    gpu: str | None = None
    """Name in `GPUS`. None if memory and FLOP/s are given, or are not needed."""
    memory_gib: float | None = None
    """Memory of one GPU. None takes that of the GPU model."""
    tflops: float | None = None
    """Measured 10^12 operations per second. None assumes a share of the GPU model's peak."""
    bandwidth_gbs: float | None = None
    """10^9 bytes per second that one worker receives from the others. None omits the time of communication."""
    gpus_per_node: int = GPUS_PER_NODE
    storage_gbs: float = STORAGE_GBS
    """10^9 bytes per second that all workers together write to the storage of checkpoints."""

    def __post_init__(self) -> None:
        if self.gpu is not None and self.gpu not in GPUS:
            raise ValueError(
                f"--gpu: expected one of {', '.join(GPUS)}, got {self.gpu!r}; choose one, or give --gpu-memory and"
                " --tflops for another"
            )
        for name, value in vars(self).items():
            # A comparison with NaN is false.
            if name != "gpu" and value is not None and not 0 < value < math.inf:
                raise ValueError(
                    f"{_OPTIONS[name]}: expected a number above 0, got {value:g}; give what the machine has"
                )

    @property
    def limit(self) -> int | None:
        """Bytes of one GPU. None if neither model nor memory is given."""
        gib = self.memory_gib or (GPUS[self.gpu].memory_gib if self.gpu else None)
        return int(gib * GIB) if gib else None

    @property
    def flops(self) -> float | None:
        """Operations per second that training is assumed to reach. None if neither model nor speed is given."""
        if self.tflops:
            return self.tflops * 1e12
        return GPUS[self.gpu].tflops * 1e12 * GPUS[self.gpu].share if self.gpu else None

    @property
    def assumption(self) -> str:
        """Source of the FLOP/s, in words."""
        if self.tflops:
            return f"{self.tflops:g} TFLOP/s, as given"
        if not self.gpu:
            return "no FLOP/s: give --tflops or --gpu"
        peak, share = GPUS[self.gpu].tflops, GPUS[self.gpu].share
        return f"{peak * share:.4g} TFLOP/s, assumed: {share:.0%} of the {self.gpu}'s {peak:g}; see --tflops"
