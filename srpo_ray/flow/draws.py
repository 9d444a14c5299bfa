"""Reproducible random draws, addressed by update and sample, so that they do not depend on the number of workers."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from srpo_ray.config.base import Scope


def generator(seed: int, purpose: str, *address: int) -> torch.Generator:
    """Return a CPU generator whose state depends only on the arguments.

    Args:
        seed: Seed of the run.
        purpose: Name of the draw, for example `"rollout"`.
        address: Address of the draw, for example the update and the sample's index in the global batch.
    """
    text = f"{seed}/{purpose}/{'/'.join(map(str, address))}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


DrawScope = Scope | Literal["per_image"]
"""Rows that share a draw; `per_image` gives each image of a sample a draw, where a sample has several."""


@dataclass(frozen=True)
class Draws:
    """Draws for the samples of one batch: a sample has the same draws on any worker and in any micro-batch."""

    seed: int
    """Seed of the run."""
    update: int
    """Index of the update, from 0."""
    samples: tuple[int, ...]
    """Index of each sample in the update's global batch."""
    worker: int = 0
    """Rank of the worker, for draws that all its samples share."""
    children: tuple[int, ...] = ()
    """Index of each row among the images of its sample, from 0; empty where every sample has one."""

    @property
    def images(self) -> list[tuple[int, int]]:
        """Sample and child of each row: the address of an image in the update."""
        return list(zip(self.samples, self.children or (0,) * len(self.samples), strict=True))

    def generators(self, purpose: str, *address: int, scope: DrawScope = "per_sample") -> list[torch.Generator]:
        """One generator per row; rows that share a draw get generators in the same state.

        Args:
            purpose: What is drawn, for example `"renoise"`.
            address: Which draw of a row it is, where there are several.
            scope: Rows that share a draw: all of the update, those of a worker, those of a sample, or none.
        """
        owns: dict[DrawScope, Sequence[tuple[int, ...]]] = {
            "shared": [()] * len(self.samples),
            "per_worker": [(self.worker,)] * len(self.samples),
            "per_sample": [(sample,) for sample in self.samples],
            "per_image": self.images,
        }
        return [generator(self.seed, purpose, self.update, *own, *address) for own in owns[scope]]

    def uniform(self, purpose: str, low: float, high: float, *address: int, scope: DrawScope = "per_sample") -> Tensor:
        """One float64 per row `[B]`, uniform in [low, high); for the rest see `generators`."""
        sources = self.generators(purpose, *address, scope=scope)
        return low + (high - low) * torch.stack([torch.rand((), generator=s, dtype=torch.float64) for s in sources])

    def integers(self, purpose: str, low: int, high: int, *address: int, scope: DrawScope = "per_sample") -> list[int]:
        """One integer per row, uniform in [low, high], both ends included; for the rest see `generators`."""
        sources = self.generators(purpose, *address, scope=scope)
        return [int(torch.randint(low, high + 1, (), generator=source)) for source in sources]

    def integer(self, purpose: str, low: int, high: int) -> int:
        """One integer of the update alone, uniform in [low, high]; it may change the number of model calls."""
        return int(torch.randint(low, high + 1, (), generator=self.of_update(purpose)))

    def of_update(self, purpose: str) -> torch.Generator:
        """Return a generator of the update, for draws that change the number of model calls on all workers alike."""
        return generator(self.seed, purpose, self.update)
