"""Preference pairs of a policy gradient: the choice of two images of each prompt, and the loss of one step."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from srpo_ray.algorithms.pair_choice import choose_pairs
from srpo_ray.config.algorithms.selection import Selection


class PairOutput(NamedTuple):
    """Losses of the pairs of P prompts at one step, and their statistics."""

    losses: Tensor
    """`[P]` with gradient."""
    clipped: Tensor
    """1 where a ratio of the pair is outside the range `[P]`."""
    margins: Tensor
    """Log-ratio of the preferred image less that of the other one, without gradient, `[P]`; 0 without a pair."""


def pair_signs(
    advantages: Tensor, rewards: Tensor, weights: Sequence[float], selection: Selection, min_gap: float
) -> Tensor:
    """Choose a preferred and another image of each prompt.

    Args:
        advantages: Advantages of G images of P prompts, `[P, G]`; `best_worst` compares them.
        rewards: Scores by R models, `[P, G, R]`; `vote` and `dominance` compare them.
        weights: Weight of each model in the sum, R numbers above 0.
        selection: Rule of the choice, see `choose_pairs`.
        min_gap: Least difference of the weighted sums of the scores.

    Returns:
        1 for the preferred image, -1 for the other one and 0 for the rest, `[P, G]` float64. All are 0 where no two
        images make a pair.
    """
    factors = torch.tensor(weights, dtype=torch.float64)
    if selection == "best_worst":
        choice = choose_pairs(advantages[:, :, None], torch.ones(1, dtype=advantages.dtype), selection)
    else:
        choice = choose_pairs(rewards, factors, selection, min_gap)
    prompts, totals = torch.arange(len(advantages)), (rewards * factors).sum(dim=2)
    gaps = totals[prompts, choice.preferred] - totals[prompts, choice.other]
    # Without a limit, the advantages decide, which may be normalised apart from the sum of the rewards.
    limited = selection == "best_worst" and min_gap > 0
    valid = choice.valid & (gaps >= min_gap) if limited else choice.valid
    signs = torch.zeros(advantages.shape, dtype=torch.float64)
    signs[prompts, choice.preferred] = valid.double()
    signs[prompts, choice.other] -= valid.double()
    return signs


def pair_losses(log_ratio: Tensor, inside: Tensor, signs: Tensor, beta: float) -> PairOutput:
    """Compute the logistic preference of one image of each prompt over another one at a step.

        loss = -log sigmoid(beta * (log_ratio_preferred - log_ratio_other))

    A prompt without a pair has the loss 0.

    Args:
        log_ratio: Logarithm of the probability ratio of the step to the initial model, `[P, G]`.
        inside: The same, clamped to the clip range, outside of which it has no gradient.
        signs: 1 for the preferred image, -1 for the other one, 0 for the rest, `[P, G]`, see `pair_signs`.
        beta: Slope, above 0.

    Source: SPO, arXiv 2406.04314, for images that follow one state; PSO, arXiv 2410.03190, for whole trajectories.
    """
    margins = (signs * inside).sum(dim=1)
    valid = (signs != 0).any(dim=1)
    losses = valid * -functional.logsigmoid(beta * margins)
    clipped = ((log_ratio != inside) & (signs != 0)).any(dim=1)
    return PairOutput(losses, clipped.detach().float(), margins.detach())
