"""Win rates of images within the group of their prompt, from comparisons of all pairs by a reward."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import torch
from torch import Tensor

from srpo_ray.rewards.base import PendingScore, PendingValues, RewardScorer, Scores
from srpo_ray.rewards.query import Pairs, TextQuery


@dataclass(frozen=True)
class ComparedScores:
    """Scores of images together with their win rates, which may still be in computation."""

    pending: PendingScore
    """Scores of B images."""
    comparison: PendingValues
    """Comparisons of `pairs`."""
    pairs: Pairs
    """All pairs of images of the same prompt."""

    def result(self) -> Scores:
        """See `PendingScore.result`."""
        return self._scores

    @cached_property
    def _scores(self) -> Scores:
        scores = self.pending.result()
        wins = {
            name: win_rates_of_pairs(self.pairs, values, len(scores.total))
            for name, values in self.comparison.result().items()
        }
        return replace(scores, wins=wins)


def submit_compared(
    rewards: RewardScorer,
    images: Tensor,
    queries: Sequence[TextQuery],
    samples: Sequence[int],
    names: Sequence[str],
) -> ComparedScores:
    """Submit images to the rewards, and all pairs of images of the same sample to those that compare pairs.

    Args:
        rewards: Scorer.
        images: `[B, 3, H, W]` in [0, 1], with whole groups.
        queries: B text queries.
        samples: Sample of each image.
        names: Rewards that compare, at least one.
    """
    pairs = pairs_of_groups(samples)
    pending = rewards.submit(images, queries)
    return ComparedScores(pending, rewards.compare(images, queries, pairs, names), pairs)


def submit_ranked(
    rewards: RewardScorer, images: Tensor, queries: Sequence[TextQuery], samples: Sequence[int], *, compare: bool
) -> PendingScore:
    """Submit images to the rewards, and if `compare` their pairs to those of the trained ones that compare pairs.

    Args:
        rewards: Scorer.
        images: `[B, 3, H, W]` in [0, 1], with whole groups.
        queries: B text queries.
        samples: Sample of each image.
        compare: True for win rates.
    """
    names = sorted(rewards.pairwise & set(rewards.trained)) if compare else []
    if names:
        return submit_compared(rewards, images, queries, samples, names)
    return rewards.submit(images, queries)


def pairs_of_groups(samples: Sequence[int]) -> list[tuple[int, int]]:
    """List all pairs of rows with the same sample, `G (G - 1) / 2` for each group of G rows.

    Args:
        samples: Sample of each row.
    """
    groups: dict[int, list[int]] = {}
    for row, sample in enumerate(samples):
        groups.setdefault(sample, []).append(row)
    return [pair for rows in groups.values() for pair in combinations(rows, 2)]


def win_rates_of_pairs(pairs: Pairs, probabilities: Tensor, size: int) -> Tensor:
    """Average each image's probabilities of being better than the others of its group; itself counts 1/2.

    Args:
        pairs: All pairs of images of the same group.
        probabilities: Probability that the first image of each pair is better, `[N]`.
        size: Number of images B.

    Returns:
        `[B]` float64, in (0, 1).

    Source: Pref-GRPO, arXiv 2508.20751, with probabilities in the place of decisions.
    """
    chances = probabilities.double().cpu()
    first, second = (torch.tensor(side) for side in zip(*pairs, strict=True))
    won = torch.full((size,), 0.5, dtype=torch.float64).index_add(0, first, chances).index_add(0, second, 1 - chances)
    met = torch.bincount(torch.cat([first, second]), minlength=size)
    return won / (met + 1)
