"""An exponential EMA of the weights, of which each worker keeps its own shard."""

from collections.abc import Mapping

import torch
from torch import Tensor

from srpo_ray.config.training import EmaConfig


class Ema:
    """The average of one worker's float32 shards, by parameter name."""

    def __init__(self, config: EmaConfig, shards: Mapping[str, Tensor]) -> None:
        """Start the average at the given weights.

        Args:
            config: Decay and warmup.
            shards: Parameter name -> this worker's part of the weights.
        """
        self.config = config
        self.shards = {name: shard.detach().clone() for name, shard in shards.items()}

    @torch.no_grad()
    def add(self, shards: Mapping[str, Tensor], updates: int) -> None:
        """Take the weights of one update into the average.

        Args:
            shards: Parameter name -> this worker's part of the weights.
            updates: Updates made before it.
        """
        decay = self.decay(updates)
        for name, average in self.shards.items():
            average.lerp_(shards[name], 1 - decay)

    def decay(self, updates: int) -> float:
        """Share of the old average that the next update keeps; the warmup is TensorFlow's, by `num_updates`."""
        return min(self.config.decay, (1 + updates) / (10 + updates)) if self.config.warmup else self.config.decay
