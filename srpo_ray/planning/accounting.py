"""The plan of one device: what it holds part by part, and when it holds most."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """Something that takes memory."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Phase:
    """A time in a run, and what is held then beside what always is."""

    name: str
    parts: tuple[Part, ...]

    @property
    def bytes(self) -> int:
        """Sum of the parts."""
        return total(self.parts)


@dataclass(frozen=True)
class Memory:
    """One GPU, or the host of a node."""

    name: str
    always: tuple[Part, ...]
    """Held all the time."""
    phases: tuple[Phase, ...]
    """Times that come one after the other."""
    outside: tuple[Part, ...] = ()
    """What is no tensor of this process: CUDA's context, NCCL, other processes, what the allocator cannot use."""

    @property
    def fullest(self) -> Phase:
        """The phase that holds most."""
        return max(self.phases, key=lambda phase: phase.bytes)

    @property
    def allocated(self) -> int:
        """Most bytes in tensors at any time: what `torch.cuda.max_memory_allocated` is compared with."""
        return total(self.always) + self.fullest.bytes

    @property
    def peak(self) -> int:
        """Most bytes at any time, all included."""
        return self.allocated + total(self.outside)


def total(parts: Sequence[Part]) -> int:
    """Sum of the bytes."""
    return sum(part.bytes for part in parts)


def present(*parts: Part) -> tuple[Part, ...]:
    """The parts that take anything."""
    return tuple(part for part in parts if part.bytes)
