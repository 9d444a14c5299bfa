"""Copies of weights that follow the trained ones, of which each worker keeps its own shard."""

from collections.abc import Mapping

import torch
from torch import Tensor

from srpo_ray.config.training import EmaConfig


class Shadow:
    """A copy of one worker's float32 shards, by parameter name."""

    def __init__(self, shards: Mapping[str, Tensor]) -> None:
        """Copy the given weights.

        Args:
            shards: Parameter name -> this worker's part of the weights.
        """
        self.shards = {name: shard.detach().clone() for name, shard in shards.items()}

    @torch.no_grad()
    def move(self, shards: Mapping[str, Tensor], kept: float) -> None:
        """Go towards other weights.

        Args:
            shards: Parameter name -> this worker's part of them.
            kept: Share of the copy that stays, in [0, 1].
        """
        for name, copy in self.shards.items():
            copy.lerp_(shards[name], 1 - kept)


class Ema(Shadow):
    """An exponential moving average of the trained weights."""

    def __init__(self, config: EmaConfig, shards: Mapping[str, Tensor]) -> None:
        """Start the average at the given weights.

        Args:
            config: Decay and warmup.
            shards: Parameter name -> this worker's part of the weights.
        """
        super().__init__(shards)
        self.config = config

    def add(self, shards: Mapping[str, Tensor], updates: int) -> None:
        """Take the weights of one update into the average.

        Args:
            shards: Parameter name -> this worker's part of the weights.
            updates: Updates made before it.
        """
        self.move(shards, self.decay(updates))

    def decay(self, updates: int) -> float:
        """Share of the old average that the next update keeps; the warmup is TensorFlow's, by `num_updates`."""
        return min(self.config.decay, (1 + updates) / (10 + updates)) if self.config.warmup else self.config.decay
