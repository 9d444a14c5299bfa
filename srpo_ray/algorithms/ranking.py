"""Plackett-Luce model of the ranking of a prompt's images by scores of their trajectories."""

import math

import torch
from torch import Tensor


def ranking_losses(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the negative log-likelihood of a ranking, and its derivative with the opposite sign.

        loss = sum_i [log(sum of exp(score_j) over all j whose value is at most value_i) - score_i]

    For two images it is `-log sigmoid(score_better - score_worse)`. Images of equal value are not ranked among each
    other (Breslow's form of ties), so a group of equal values and scores has no derivative.

    Args:
        scores: `[P, G]` float64, scores of the images of P groups under the model.
        values: `[P, G]`, higher is better.

    Returns:
        Losses `[P]`, and `-d loss / d score`, `[P, G]`.

    Source: Dense reward view, arXiv 2402.08265; ties: Breslow, Biometrics 30, 1974.
    """
    # [P, i, j] is 0 where j takes part in the choice of i, and minus infinity elsewhere.
    excluded = torch.zeros_like(scores)[:, None, :].masked_fill(values[:, None, :] > values[:, :, None], -torch.inf)
    choices = scores[:, None, :] + excluded
    losses = (torch.logsumexp(choices, dim=2) - scores).sum(dim=1)
    return losses, 1 - torch.softmax(choices, dim=2).sum(dim=1)


def discount_weights(steps: Tensor, discount: float) -> Tensor:
    """Compute the weight of each step in the score of its trajectory, `discount ** step`, scaled to a mean of 1.

    Args:
        steps: Trained steps of each image, `[T, S]`, as indices of the sampler's grid; 0 is the noisiest step.
        discount: Factor from a step to the next one, above 0.

    Returns:
        `[T, S]` float64.
    """
    # A softmax of the logarithms, because the powers of many steps may all round to 0 or infinity.
    return len(steps) * torch.softmax(steps.double() * math.log(discount), dim=0)
