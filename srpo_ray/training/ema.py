"""Exponential moving average (EMA) and other copies of the trained weights, sharded over the workers."""

from collections.abc import Mapping

import torch
from torch import Tensor

from srpo_ray.config.training import EmaConfig


class Shadow:
    """Copy of one worker's float32 shards, by parameter name."""

    def __init__(self, shards: Mapping[str, Tensor]) -> None:
        """Copy the given weights.

        Args:
            shards: Parameter name -> this worker's shard of the weights.
        """
        self.shards = {name: shard.detach().clone() for name, shard in shards.items()}

    @torch.no_grad()
    def move(self, shards: Mapping[str, Tensor], kept: float) -> None:
        """Interpolate towards other weights.

        Args:
            shards: Parameter name -> this worker's shard of the other weights.
            kept: Weight of the copy in the interpolation, in [0, 1].
        """
        for name, copy in self.shards.items():
            copy.lerp_(shards[name], 1 - kept)


class Ema(Shadow):
    """Exponential moving average of the trained weights."""

    def __init__(self, config: EmaConfig, shards: Mapping[str, Tensor]) -> None:
        """Start the EMA at the given weights.

        Args:
            config: Decay and warmup.
            shards: Parameter name -> this worker's shard of the weights.
        """
        super().__init__(shards)
        self.config = config

    def add(self, shards: Mapping[str, Tensor], updates: int) -> None:
        """Add the weights of one update to the EMA.

        Args:
            shards: Parameter name -> this worker's shard of the weights.
            updates: Updates made before this one.
        """
        self.move(shards, self.decay(updates))

    def decay(self, updates: int) -> float:
        """Return the decay of the next update; the warmup follows TensorFlow's `num_updates`."""
        return min(self.config.decay, (1 + updates) / (10 + updates)) if self.config.warmup else self.config.decay
