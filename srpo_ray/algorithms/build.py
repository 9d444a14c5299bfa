"""Where an algorithm's config meets its code."""

from srpo_ray.algorithms.base import Algorithm
from srpo_ray.algorithms.srpo import SRPO
from srpo_ray.config import RunConfig
from srpo_ray.models.flux import FluxPolicy
from srpo_ray.rewards.base import RewardScorer

ALGORITHMS = {"srpo": SRPO}


def build_algorithm(config: RunConfig, policy: FluxPolicy, rewards: RewardScorer) -> Algorithm:
    """The algorithm that section `algorithm` names."""
    algorithm = ALGORITHMS[config.algorithm.type]
    return algorithm(config.algorithm, config.rollout, config.control_words, policy, rewards, config.seed)
