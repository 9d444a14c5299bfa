"""Interfaces of a job that is divided into chunks, each of which gives rows, and of what processes its chunks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Row = dict[str, Any]
"""Row of an image: the parts of its key, then its metrics."""
Place = tuple[int | str, ...]
"""Key of an image in its job, such as prompt, sample and model."""


class Job(Protocol):
    """Job of chunks. Workers get it serialised, so it has plain values only."""

    @property
    def folder(self) -> Path:
        """Output folder; on a cluster, every node must have access to it."""
        ...

    @property
    def description(self) -> dict[str, Any]:
        """Everything that the rows depend on, as JSON values; the description identifies the job."""
        ...

    @property
    def chunks(self) -> list[list[int]]:
        """Chunks of the job, as indices; they do not depend on the number of workers."""
        ...

    def places(self, chunk: Sequence[int]) -> list[Place]:
        """List the images of a chunk."""
        ...

    def place_of(self, row: Row) -> Place:
        """Return the image of a row."""
        ...

    def has_image(self, place: Place) -> bool:
        """Test whether the file of an image is there."""
        ...


class Worker(Protocol):
    """Processor of the chunks of a job; every process of a job has one."""

    def draw(self, chunk: Sequence[int]) -> list[Row]:
        """Process one chunk, and return one row per image."""
        ...


@dataclass(frozen=True)
class Work:
    """Processing of a job, as functions that every process can import."""

    prepare: Callable[[Any], object]
    """Function of the job that one process calls before all others."""
    open: Callable[[Any], Worker]
    """Function of the job that loads the models of a process."""
    notes: Callable[[Any], Sequence[str]] | None = None
    """Function of the job that returns notes for the user, called before the first chunk; None has no notes."""
