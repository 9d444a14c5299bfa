"""GPUs by name, and what is assumed of a machine where nobody says."""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU, by its vendor's data sheet."""

    memory_gib: float
    """What torch reports as its total memory."""
    tflops: float
    """Dense bfloat16 matrix products with float32 sums, in 10^12 operations per second."""


GPUS: dict[str, Gpu] = {
    "A100-40GB": Gpu(39.4, 312),
    "A100-80GB": Gpu(79.1, 312),
    "A6000": Gpu(47.4, 155),
    "H20": Gpu(95.0, 148),
    "H100": Gpu(79.1, 989),
    "H200": Gpu(139.7, 989),
    "L40S": Gpu(44.4, 362),
    "RTX4090": Gpu(23.5, 165),
}
"""Name -> what a plan takes for it."""

ASSUMED_SHARE = 0.4
"""Share of a GPU's peak that training reaches, where no measured FLOP/s are given."""
CONTEXT_BYTES = int(0.6 * GIB)
"""What CUDA and its libraries take of a GPU for each process."""
NCCL_BYTES = int(1.0 * GIB)
"""What NCCL's channels take of a GPU where there are several workers."""
SLACK = 0.06
"""Share of torch's memory that its allocator holds in pieces which fit nothing, and kernels' workspaces."""
PROCESS_BYTES = int(2.0 * GIB)
"""Memory of the host that a process with Python, torch and Ray takes before it holds anything."""
GPUS_PER_NODE = 8


@dataclass(frozen=True)
class Hardware:
    """What a run is planned for."""

    gpu: str | None = None
    """Name in `GPUS`; None where memory and FLOP/s are given, or nobody cares."""
    memory_gib: float | None = None
    """Memory of one GPU; None takes the named GPU's."""
    tflops: float | None = None
    """Measured 10^12 operations per second; None assumes a share of the named GPU's peak."""
    bandwidth_gbs: float | None = None
    """10^9 bytes per second that one worker receives from the others; None leaves the time of the wire out."""
    gpus_per_node: int = GPUS_PER_NODE

    def __post_init__(self) -> None:
        if self.gpu is not None and self.gpu not in GPUS:
            raise ValueError(
                f"--gpu: expected one of {', '.join(GPUS)}, got {self.gpu!r}; choose one, or give --gpu-memory and"
                " --tflops for another"
            )
        for name, value in vars(self).items():
            if name != "gpu" and value is not None and value <= 0:
                raise ValueError(f"expected {name} above 0, got {value}; give what one GPU has")

    @property
    def limit(self) -> int | None:
        """Bytes of one GPU; None if nothing is said of it."""
        gib = self.memory_gib or (GPUS[self.gpu].memory_gib if self.gpu else None)
        return int(gib * GIB) if gib else None

    @property
    def flops(self) -> float | None:
        """Operations per second that training is taken to reach; None if nothing is said."""
        if self.tflops:
            return self.tflops * 1e12
        return GPUS[self.gpu].tflops * 1e12 * ASSUMED_SHARE if self.gpu else None

    @property
    def assumption(self) -> str:
        """Where the FLOP/s come from, in words."""
        if self.tflops:
            return f"{self.tflops:g} TFLOP/s, as given"
        if not self.gpu:
            return "no FLOP/s: give --tflops or --gpu"
        peak = GPUS[self.gpu].tflops
        return (
            f"{peak * ASSUMED_SHARE:g} TFLOP/s, assumed: {ASSUMED_SHARE:.0%} of the {self.gpu}'s {peak:g}; see --tflops"
        )
