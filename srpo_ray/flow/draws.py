"""Reproducible random draws, addressed by update and sample, so that they do not depend on the number of workers."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

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
    """Rank of the worker, for draws that its samples share."""

    def generators(self, purpose: str, *address: int, scope: Scope = "per_sample") -> list[torch.Generator]:
        """Return one generator per sample; samples that share a draw get generators in the same state.

        Args:
            purpose: Name of the draw, for example `"renoise"`.
            address: Address of the draw among several of a sample.
            scope: Samples that share a draw: all of the update, those of a worker, or none.
        """
        shared: Sequence[int] = {"shared": (), "per_worker": (self.worker,), "per_sample": ()}[scope]
        owns = [(sample,) if scope == "per_sample" else shared for sample in self.samples]
        return [generator(self.seed, purpose, self.update, *own, *address) for own in owns]

    def integers(self, purpose: str, low: int, high: int, *address: int, scope: Scope = "per_sample") -> list[int]:
        """Draw one integer per sample, uniform in [low, high], both ends included; see `generators`."""
        sources = self.generators(purpose, *address, scope=scope)
        return [int(torch.randint(low, high + 1, (), generator=source)) for source in sources]

    def of_update(self, purpose: str) -> torch.Generator:
        """Return a generator of the update, for draws that change the number of model calls on all workers alike."""
        return generator(self.seed, purpose, self.update)
