"""Construction of a run's algorithm from its config."""

import importlib
from typing import TYPE_CHECKING, Any

from srpo_ray.algorithms.anchor import AnchoredAlgorithm
from srpo_ray.algorithms.base import Algorithm
from srpo_ray.config import RunConfig
from srpo_ray.config.algorithms.base import AlgorithmSection
from srpo_ray.models.sigma_grid import sigma_grid
from srpo_ray.rewards.base import RewardScorer

if TYPE_CHECKING:
    from srpo_ray.models.policy import FlowPolicy


def algorithm_class(section: AlgorithmSection) -> type[Algorithm[Any]]:
    """Import the algorithm class of a config class."""
    module, name = section.code.split(":")
    return getattr(importlib.import_module(module), name)


def build_algorithm(config: RunConfig, policy: "FlowPolicy", rewards: RewardScorer) -> Algorithm[Any]:
    """Build the algorithm of section `algorithm`, with the loss of its anchors."""
    kind = algorithm_class(config.algorithm)
    section = config.algorithm
    algorithm = kind(section, config.rollout, policy, rewards, sigma_grid(config.model), config.trained_words)
    return AnchoredAlgorithm(algorithm) if section.anchor.active and not section.anchors_itself else algorithm
