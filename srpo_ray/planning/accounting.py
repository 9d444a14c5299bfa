"""Memory of one device: its parts, the phases of a run, and the peak."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """Named amount of memory or traffic."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Phase:
    """Phase of a run, with the memory that only this phase needs."""

    name: str
    parts: tuple[Part, ...]

    @property
    def bytes(self) -> int:
        """Sum of the parts."""
        return total(self.parts)


@dataclass(frozen=True)
class Memory:
    """Memory of one GPU, of one process, or of the host of a node."""

    name: str
    always: tuple[Part, ...]
    """Parts that stay in memory throughout the run."""
    phases: tuple[Phase, ...]
    """Phases that follow one another, so their parts are never in memory together."""
    outside: tuple[Part, ...] = ()
    """Memory outside this process's tensors: CUDA context, NCCL, other processes, fragments of the allocator."""

    @property
    def fullest(self) -> Phase:
        """Phase with the most memory."""
        return max(self.phases, key=lambda phase: phase.bytes)

    @property
    def allocated(self) -> int:
        """Peak bytes in tensors, comparable with `torch.cuda.max_memory_allocated`."""
        return total(self.always) + self.fullest.bytes

    @property
    def peak(self) -> int:
        """Peak bytes, with the memory outside tensors."""
        return self.allocated + total(self.outside)


def total(parts: Sequence[Part]) -> int:
    """Sum the bytes of parts."""
    return sum(part.bytes for part in parts)


def present(*parts: Part) -> tuple[Part, ...]:
    """Drop the parts of zero bytes."""
    return tuple(part for part in parts if part.bytes)
