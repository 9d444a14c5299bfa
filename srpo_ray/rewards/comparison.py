"""Comparison of images in pairs: by rewards that compare two images at once, or by the scores of the others."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from srpo_ray.rewards.base import PairwiseReward, Reward
from srpo_ray.rewards.call import RewardCall
from srpo_ray.rewards.combine import full_precision, score_only
from srpo_ray.rewards.input_spec import InputSpec
from srpo_ray.rewards.query import Pairs, TextQuery


def is_pairwise(reward: Reward) -> bool:
    """Test whether a reward compares two images at once."""
    return callable(getattr(reward, "compare", None))


def compare_pairs(
    rewards: Mapping[str, Reward],
    names: Sequence[str],
    images: Mapping[InputSpec, Tensor],
    queries: Sequence[TextQuery],
    pairs: Pairs,
    *,
    micro_batch_size: int,
    replica: str,
) -> dict[str, Tensor]:
    """Compute the probability that the first image of each pair is better.

    Args:
        rewards: Models by name.
        names: Models that compare.
        images: Per input spec `[B, 3, size, size]`, for the input spec of every named reward.
        queries: B text queries.
        pairs: N pairs of images.
        micro_batch_size: Maximum number of pairs in one call of a reward, and of images in one that scores.
        replica: Name of the replica, for messages.

    Returns:
        Per name `[N]` in [0, 1].

    Raises:
        RewardError: If a reward raises, or returns a wrong shape or a number outside [0, 1].
    """
    by_scores = [name for name in names if not is_pairwise(rewards[name])]
    scores = score_only(rewards, by_scores, images, queries, micro_batch_size=micro_batch_size, replica=replica)
    found = {name: wins_by_score(values, pairs) for name, values in scores.items()}
    for name in names:
        if name not in found:
            reward = cast(PairwiseReward, rewards[name])
            found[name] = _asked(reward, images[InputSpec.of(reward)], queries, pairs, micro_batch_size, replica)
    return {name: found[name] for name in names}


def wins_by_score(scores: Tensor, pairs: Pairs) -> Tensor:
    """Compare scores `[B]`: 1 for a pair whose first score is higher, 0 if it is lower, 1/2 for a tie; `[N]`."""
    first, second = (scores[list(side)] for side in zip(*pairs, strict=True))
    return (first > second).to(scores) + 0.5 * (first == second).to(scores)


def _asked(
    reward: PairwiseReward, pixels: Tensor, queries: Sequence[TextQuery], pairs: Pairs, size: int, replica: str
) -> Tensor:
    found: list[Tensor] = []
    for start in range(0, len(pairs), size):
        first, second = zip(*pairs[start : start + size], strict=True)
        asked = [queries[row] for row in first]
        with RewardCall(reward.name, asked, replica) as call, torch.no_grad(), full_precision(pixels):
            wins = reward.compare(pixels[list(first)], pixels[list(second)], asked)
            call.require_score(wins)
            call.require_probability(wins)
        found.append(wins.to(pixels))
    return torch.cat(found)
