"""Whether two ways to rank the same things agree."""

from collections.abc import Sequence

import torch
from torch import Tensor

from srpo_ray.words.measure import correlation


def ranks(values: Tensor) -> Tensor:
    """Ranks `[N]` from 1, the lowest first; equal values share the mean of their ranks."""
    below = (values[None, :] < values[:, None]).sum(1)
    equal = (values[None, :] == values[:, None]).sum(1)
    return below + (equal + 1) / 2


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rank correlation: the correlation of the ranks, in [-1, 1]; 0 if all ranks are equal.

    Args:
        one: N numbers.
        other: N numbers for the same things.
    """
    first, second = (ranks(torch.tensor(values, dtype=torch.float64)) for values in (one, other))
    return float(correlation(first[None], second[None]))


def bootstrap_interval(
    one: Sequence[float], other: Sequence[float], *, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Where 90% of Spearman's rank correlations fall when the things are drawn anew, with replacement.

    Args:
        one: N numbers.
        other: N numbers for the same things.
        draws: Samples of N things.
        seed: Of the draws.

    Returns:
        5th and 95th percentile.
    """
    source = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(draws):
        chosen = torch.randint(len(one), (len(one),), generator=source).tolist()
        values.append(spearman([one[i] for i in chosen], [other[i] for i in chosen]))
    low, high = torch.tensor(values).quantile(torch.tensor([0.05, 0.95])).tolist()
    return low, high
