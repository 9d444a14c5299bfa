"""Construction of a run's algorithm from its config."""

import importlib
from functools import cache
from typing import TYPE_CHECKING, Any

from srpo_ray.algorithms.anchor import AnchoredAlgorithm
from srpo_ray.algorithms.base import Algorithm
from srpo_ray.config import RunConfig
from srpo_ray.config.algorithms.base import AlgorithmSection
from srpo_ray.config.model import ModelConfig
from srpo_ray.flow import SigmaGrid
from srpo_ray.models.sigma_grid import sigma_grid
from srpo_ray.rewards.base import RewardScorer

if TYPE_CHECKING:
    from srpo_ray.models.policy import FlowPolicy


def algorithm_class(section: AlgorithmSection) -> type[Algorithm[Any]]:
    """Import the algorithm class of a config class."""
    module, name = section.code.split(":")
    return getattr(importlib.import_module(module), name)


def grid_of(model: ModelConfig, policy: "FlowPolicy") -> SigmaGrid:
    """Build the function that computes the sampling grids of a model at the present size of its policy's images.

    Args:
        model: Section `model`.
        policy: Policy of the run.
    """
    grids = {size: cache(sigma_grid(model.with_size(size.resolution))) for size in model.all_sizes}
    if len(grids) == 1:
        return next(iter(grids.values()))
    return lambda num_steps, shift: grids[policy.size](num_steps, shift)


def build_algorithm(config: RunConfig, policy: "FlowPolicy", rewards: RewardScorer) -> Algorithm[Any]:
    """Build the algorithm of section `algorithm`, with the loss of its anchors."""
    kind = algorithm_class(config.algorithm)
    section = config.algorithm
    algorithm = kind(section, config.rollout, policy, rewards, grid_of(config.model, policy), config.trained_words)
    return AnchoredAlgorithm(algorithm) if section.anchor.active and not section.anchors_itself else algorithm
