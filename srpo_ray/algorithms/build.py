"""Where an algorithm's config meets its code."""

from collections.abc import Callable

from srpo_ray.algorithms.align_prop import AlignProp
from srpo_ray.algorithms.base import Algorithm
from srpo_ray.algorithms.dance_grpo import DanceGRPO
from srpo_ray.algorithms.direct_align import DirectAlign
from srpo_ray.algorithms.draft import DRaFT
from srpo_ray.algorithms.refl import ReFL
from srpo_ray.algorithms.srpo import SRPO
from srpo_ray.config import RunConfig
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.models.sigma_grid import sigma_grid
from srpo_ray.rewards.base import RewardScorer

Maker = Callable[[RunConfig, FlowPolicy, RewardScorer], Algorithm]


def build_algorithm(config: RunConfig, policy: FlowPolicy, rewards: RewardScorer) -> Algorithm:
    """The algorithm that section `algorithm` names."""
    return ALGORITHMS[config.algorithm.type](config, policy, rewards)


def _plain(algorithm: Callable[..., Algorithm]) -> Maker:
    """For an algorithm that scores prompts as they are."""
    return lambda run, policy, rewards: algorithm(
        run.algorithm, run.rollout, policy, rewards, run.seed, sigma_grid(run.model)
    )


def _with_words(algorithm: Callable[..., Algorithm]) -> Maker:
    """For an algorithm that scores prompts with control words."""
    return lambda run, policy, rewards: algorithm(
        run.algorithm, run.rollout, run.control_words, policy, rewards, run.seed, sigma_grid(run.model)
    )


ALGORITHMS: dict[str, Maker] = {
    "align_prop": _plain(AlignProp),
    "dance_grpo": _plain(DanceGRPO),
    "direct_align": _plain(DirectAlign),
    "draft": _plain(DRaFT),
    "refl": _plain(ReFL),
    "srpo": _with_words(SRPO),
}
