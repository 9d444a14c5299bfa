"""Choice of a preferred and another image among the images of a prompt, by their rewards. Pure functions."""

from typing import NamedTuple, get_args

import torch
from torch import Tensor

from srpo_ray.config.algorithms.selection import Selection as Selection

SELECTIONS: tuple[Selection, ...] = get_args(Selection)


class PairChoice(NamedTuple):
    """Chosen images of P prompts."""

    preferred: Tensor
    """Index of the preferred image of each prompt `[P]`."""
    other: Tensor
    """Index of the other image `[P]`."""
    valid: Tensor
    """False where no two images of the prompt make a pair `[P]`; their indices mean nothing."""


def choose_pairs(rewards: Tensor, weights: Tensor, selection: Selection, min_gap: float = 0.0) -> PairChoice:
    """Choose two images of each prompt; images that compare as equal make no pair.

    - `best_worst`: the images of the highest and the lowest weighted sum of the rewards.
    - `vote` (BalancedDPO, arXiv 2503.12575): each reward votes for one image of every two, with one vote whatever its
      scale or weight. The images with the most and the fewest majorities, if the majority agrees on the two. The paper
      votes on given pairs; the choice among more than two images is derived.
    - `dominance` (PSO, arXiv 2410.03190): the two images with the largest difference of the weighted sums, of which no
      reward prefers the other one.

    Args:
        rewards: Rewards of G images of P prompts by R models `[P, G, R]`.
        weights: Weight of each model in the sum `[R]`, above 0.
        selection: Rule of the choice.
        min_gap: Least difference of the weighted sums that makes a pair, at least 0. A vote has none.

    Returns:
        Indices in [0, G) for each prompt.
    """
    totals = (rewards * weights).sum(dim=2)
    gaps = totals[:, :, None] - totals[:, None, :]
    if selection == "best_worst":
        allowed = gaps > 0
    else:
        signs = (rewards[:, :, None] - rewards[:, None]).sign()
        # A majority for image i against image j `[P, G, G]`.
        majority = signs.sum(dim=3).sign()
        if selection == "vote":
            wins = majority.sum(dim=2)
            return _chosen(wins[:, :, None] - wins[:, None, :], majority > 0)
        allowed = (signs.amin(dim=3) >= 0) & (signs.amax(dim=3) > 0)
    return _chosen(gaps, allowed & (gaps >= min_gap))


def _chosen(order: Tensor, allowed: Tensor) -> PairChoice:
    """Choose the allowed pair `[P, G, G]` of the largest order; the first one of equals."""
    images = order.shape[1]
    best, place = order.masked_fill(~allowed, -torch.inf).flatten(1).max(dim=1)
    return PairChoice(place // images, place % images, best > -torch.inf)


class PairJudgement(NamedTuple):
    """Judgement of P pairs by rewards."""

    winner: Tensor
    """0 where the first image wins, 1 where the second does, -1 where neither does `[P]`."""
    close: Tensor
    """True where one wins, and the weighted sums differ by less than the least difference `[P]`."""


def judge_pairs(rewards: Tensor, weights: Tensor, selection: Selection, min_gap: float = 0.0) -> PairJudgement:
    """Judge given pairs by the rule that `choose_pairs` applies to the images of a prompt.

    Args:
        rewards: Rewards of both images of P pairs by R models `[P, 2, R]`.
        weights: Weight of each model in the sum `[R]`, above 0.
        selection: Rule of the choice.
        min_gap: Least difference of the weighted sums, at least 0. A vote has none.
    """
    found = choose_pairs(rewards, weights, selection)
    enough = choose_pairs(rewards, weights, selection, min_gap).valid
    return PairJudgement(torch.where(found.valid, found.preferred, -1), found.valid & ~enough)


def confidence_of_gap(gap: Tensor, temperature: float | None) -> Tensor:
    """Compute the confidence in a preference from the difference d of two rewards: `tanh(d / (2 T))`, `[B]`.

    It is `2 p - 1` with the probability `p = 1 / (1 + exp(-d / T))` of the preference in the Bradley-Terry model.

    Args:
        gap: Differences d, `[B]`; below 0 they count as 0.
        temperature: T, above 0; None has the confidence 1.
    """
    return torch.ones_like(gap) if temperature is None else torch.tanh(gap.clamp(min=0) / (2 * temperature))
