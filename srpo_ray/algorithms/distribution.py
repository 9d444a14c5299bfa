"""Target distributions (arXiv 2311.07604): attributes of all images of an update, assigned so that shares are exact.

The assignment has the largest sum of scores among those with the target shares, so that few images have to change.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srpo_ray.algorithms.rollout import Rollout
from srpo_ray.rewards.query import TextQuery


@dataclass(frozen=True)
class ScoredRollout(Rollout):
    """Rollout with the scores of its images for every attribute."""

    scores: Tensor
    """`[B, K]`, detached."""
    assigned: Tensor | None = None
    """Index of each sample's attribute `[B]`; None before `settle`."""

    def __getitem__(self, rows: slice) -> "ScoredRollout":
        """Return some samples, before `settle`."""
        return ScoredRollout(self.clean[rows], self.noise[rows], self.scores[rows])


def counts_of(shares: Sequence[float], total: int) -> list[int]:
    """Divide `total` images by shares of sum 1; the largest remainders, earlier ones first, get those that are left."""
    exact = [share * total for share in shares]
    counts = [int(value + 1e-9) for value in exact]
    order = sorted(range(len(shares)), key=lambda index: counts[index] - exact[index])
    for index in order[: total - sum(counts)]:
        counts[index] += 1
    return counts


def assign(scores: Tensor, shares: Sequence[float]) -> Tensor:
    """Assign each image an attribute: the largest sum of scores with the target shares.

    With two attributes, the images with the largest difference of scores get the first one.

    Args:
        scores: `[P, K]`, float64.
        shares: K shares of sum 1.

    Returns:
        Indices of the attributes `[P]`.
    """
    # The import takes half a second, and only this algorithm needs it.
    from scipy.optimize import linear_sum_assignment

    slots = [index for index, count in enumerate(counts_of(shares, len(scores))) for _ in range(count)]
    _, chosen = linear_sum_assignment(scores[:, slots].numpy(), maximize=True)
    return torch.tensor(slots)[torch.from_numpy(chosen)]


def attribute_queries(attributes: Sequence[str], prompts: Sequence[str], assigned: Sequence[int]) -> list[TextQuery]:
    """Build the query of each row: the text of its own attribute minus the mean of the others."""
    queries = []
    for prompt, own in zip(prompts, assigned, strict=True):
        other = -1 / (len(attributes) - 1)
        terms = ((1.0 if k == own else other, f"{word}. {prompt}") for k, word in enumerate(attributes))
        queries.append(TextQuery(tuple(terms)))
    return queries


def attribute_margins(offsets: Sequence[float], assigned: Tensor) -> Tensor:
    """Difference that offsets make to the reward of each row: that of its own attribute minus the mean of the others.

    Args:
        offsets: K numbers.
        assigned: Indices of the rows' attributes `[B]`.

    Returns:
        `[B]`.
    """
    values = torch.tensor(offsets, device=assigned.device)
    others = (values.sum() - values) / (len(offsets) - 1)
    return (values - others)[assigned.long()]
