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
from srpo_ray.flow import shift_at
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.rewards.base import RewardScorer

Maker = Callable[[RunConfig, FlowPolicy, RewardScorer], Algorithm]


def build_algorithm(config: RunConfig, policy: FlowPolicy, rewards: RewardScorer) -> Algorithm:
    """The algorithm that section `algorithm` names."""
    return ALGORITHMS[config.algorithm.type](_with_numeric_shifts(config), policy, rewards)


def _with_numeric_shifts(config: RunConfig) -> RunConfig:
    """From here on every shift is a number."""
    resolution = config.model.resolution
    rollout = config.rollout.model_copy(update={"shift": shift_at(config.rollout.shift, resolution)})
    algorithm = config.algorithm
    if algorithm.type == "srpo":
        algorithm = algorithm.model_copy(update={"window_shift": shift_at(algorithm.window_shift, resolution)})
    return config.model_copy(update={"rollout": rollout, "algorithm": algorithm})


def _plain(algorithm: Callable[..., Algorithm]) -> Maker:
    """For an algorithm that scores prompts as they are."""
    return lambda run, policy, rewards: algorithm(run.algorithm, run.rollout, policy, rewards, run.seed)


def _with_words(algorithm: Callable[..., Algorithm]) -> Maker:
    """For an algorithm that scores prompts with control words."""
    return lambda run, policy, rewards: algorithm(
        run.algorithm, run.rollout, run.control_words, policy, rewards, run.seed
    )


ALGORITHMS: dict[str, Maker] = {
    "align_prop": _plain(AlignProp),
    "dance_grpo": _plain(DanceGRPO),
    "direct_align": _plain(DirectAlign),
    "draft": _plain(DRaFT),
    "refl": _plain(ReFL),
    "srpo": _with_words(SRPO),
}
