"""Where an algorithm's config meets its code."""

from srpo_ray.algorithms.base import Algorithm
from srpo_ray.algorithms.srpo import SRPO
from srpo_ray.config import RunConfig
from srpo_ray.flow import shift_at
from srpo_ray.models.flux import FluxPolicy
from srpo_ray.rewards.base import RewardScorer

ALGORITHMS = {"srpo": SRPO}


def build_algorithm(config: RunConfig, policy: FluxPolicy, rewards: RewardScorer) -> Algorithm:
    """The algorithm that section `algorithm` names."""
    # From here on every shift is a number.
    resolution = config.model.resolution
    rollout = config.rollout.model_copy(update={"shift": shift_at(config.rollout.shift, resolution)})
    window = {"window_shift": shift_at(config.algorithm.window_shift, resolution)}
    section = config.algorithm.model_copy(update=window)
    return ALGORITHMS[section.type](section, rollout, config.control_words, policy, rewards, config.seed)
