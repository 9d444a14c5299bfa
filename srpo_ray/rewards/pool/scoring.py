"""Reward models of one replica: decode the arrays of a call, score them, encode the reply."""

import time
from collections.abc import Mapping, Sequence

import torch

from srpo_ray.config.rewards import PoolConfig, RewardModelConfig
from srpo_ray.cuda import require_cuda
from srpo_ray.rewards.combine import score_and_gradient, score_only
from srpo_ray.rewards.comparison import compare_pairs, is_pairwise
from srpo_ray.rewards.input_spec import InputSpec
from srpo_ray.rewards.pool.messages import ModelInfo, Pixels, Reply
from srpo_ray.rewards.pool.wire import from_wire, to_wire
from srpo_ray.rewards.query import Pairs, TextQuery
from srpo_ray.rewards.registry import build_rewards


class LoadedRewards:
    """Reward models of this process, called with the wire form of images.

    Args:
        models: The models.
        pool: Section `pool` of the config.
        replica: Name of the replica, for messages.

    Raises:
        ValueError: If a model cannot be loaded, or there is no GPU for it.
        RewardError: If the constructor of a Python reward raises.
    """

    def __init__(self, models: Sequence[RewardModelConfig], pool: PoolConfig, replica: str) -> None:
        torch.set_num_threads(pool.num_threads)
        self._pool = pool
        self._replica = replica
        self._rewards = build_rewards(models, _device(pool))

    def describe(self) -> dict[str, ModelInfo]:
        """Model name -> properties that a client needs."""
        input_specs = {name: InputSpec.of(reward) for name, reward in self._rewards.items()}
        return {
            name: ModelInfo(
                input_spec.size,
                self._rewards[name].image_gradient,
                input_spec.fit,
                input_spec.antialias,
                is_pairwise(self._rewards[name]),
            )
            for name, input_spec in input_specs.items()
        }

    def score(self, pixels: Pixels, queries: Sequence[TextQuery], weights: Mapping[str, float]) -> Reply:
        """Compute the weighted rewards and the gradient of their sum; see `RewardReplica.score`."""
        started = time.perf_counter()
        batch = score_and_gradient(
            self._rewards,
            weights,
            {input_spec: from_wire(array) for input_spec, array in pixels.items()},
            queries,
            micro_batch_size=self._pool.micro_batch_size,
            replica=self._replica,
        )
        seconds = time.perf_counter() - started
        return Reply(
            {name: to_wire(value, "float32") for name, value in batch.values.items()},
            {input_spec: to_wire(value, self._pool.wire_dtype) for input_spec, value in batch.gradients.items()},
            seconds,
        )

    def measure(self, pixels: Pixels, queries: Sequence[TextQuery], names: Sequence[str]) -> Reply:
        """Compute the named rewards."""
        started = time.perf_counter()
        values = score_only(
            self._rewards,
            names,
            {input_spec: from_wire(array) for input_spec, array in pixels.items()},
            queries,
            micro_batch_size=self._pool.micro_batch_size,
            replica=self._replica,
        )
        seconds = time.perf_counter() - started
        return Reply({name: to_wire(value, "float32") for name, value in values.items()}, {}, seconds)

    def compare(self, pixels: Pixels, queries: Sequence[TextQuery], names: Sequence[str], pairs: Pairs) -> Reply:
        """Compare pairs of images by the named rewards; the images of other pairs are not copied."""
        started = time.perf_counter()
        rows = sorted({row for pair in pairs for row in pair})
        place = {row: index for index, row in enumerate(rows)}
        wins = compare_pairs(
            self._rewards,
            names,
            {input_spec: from_wire(array[rows]) for input_spec, array in pixels.items()},
            [queries[row] for row in rows],
            [(place[first], place[second]) for first, second in pairs],
            micro_batch_size=self._pool.micro_batch_size,
            replica=self._replica,
        )
        seconds = time.perf_counter() - started
        return Reply({name: to_wire(value, "float32") for name, value in wins.items()}, {}, seconds)


def _device(pool: PoolConfig) -> str:
    if pool.num_gpus == 0:
        return "cpu"
    require_cuda("rewards.pool.num_gpus")
    return "cuda"
