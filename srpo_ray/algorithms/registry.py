"""Where an algorithm's config meets its code."""

from typing import TYPE_CHECKING, Any

from srpo_ray.algorithms.align_prop import AlignProp
from srpo_ray.algorithms.base import Algorithm
from srpo_ray.algorithms.dance_grpo import DanceGRPO
from srpo_ray.algorithms.direct_align import DirectAlign
from srpo_ray.algorithms.draft import DRaFT
from srpo_ray.algorithms.refl import ReFL
from srpo_ray.algorithms.srpo import SRPO
from srpo_ray.config import RunConfig
from srpo_ray.models.sigma_grid import sigma_grid
from srpo_ray.rewards.base import RewardScorer

if TYPE_CHECKING:
    from srpo_ray.models.policy import FlowPolicy

ALGORITHMS: dict[str, type[Algorithm[Any]]] = {
    "align_prop": AlignProp,
    "dance_grpo": DanceGRPO,
    "direct_align": DirectAlign,
    "draft": DRaFT,
    "refl": ReFL,
    "srpo": SRPO,
}


def build_algorithm(config: RunConfig, policy: "FlowPolicy", rewards: RewardScorer) -> Algorithm[Any]:
    """The algorithm that section `algorithm` names."""
    kind = ALGORITHMS[config.algorithm.type]
    return kind(config.algorithm, config.rollout, policy, rewards, sigma_grid(config.model), config.control_words)
