"""Advantages from rewards: ranks, combination of several rewards, centre and scale. All in float64 on whole updates."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from srpo_ray.config.algorithms.advantage import AdvantageSection


def win_rates(values: Tensor, margin: float) -> Tensor:
    """Compute the share of its group that each value exceeds; a difference of at most `margin` counts half.

    Args:
        values: `[P, G]`, G values of each prompt.
        margin: Largest difference that is a tie, at least 0.

    Returns:
        `[P, G]` in (0, 1); 1/2 in a group of equal values.

    Source: Pref-GRPO, arXiv 2508.20751, with a score in the place of its pairwise judge.
    """
    differences = values[:, :, None] - values[:, None, :]
    return ((differences > margin).double() + 0.5 * (differences.abs() <= margin).double()).mean(dim=2)


def deviations(values: Tensor, centre: Literal["group", "update"], scale: Literal["group", "update", "none"]) -> Tensor:
    """Subtract a mean and divide by a standard deviation, of each row or of the whole table.

    Args:
        values: `[P, G]`, G values of each prompt; at least 2 where a row is scaled.
        centre: Values whose mean is subtracted.
        scale: Values whose standard deviation divides.

    Returns:
        `[P, G]`; zero for a group of equal values that is centred by itself.
    """
    centred = values - (values.mean(dim=1, keepdim=True) if centre == "group" else values.mean())
    if scale == "none":
        return centred
    spread = values.std(dim=1, keepdim=True) if scale == "group" else values.std()
    return centred / (spread + 1e-8)


def advantages_of(
    total: Tensor,
    each: Mapping[str, Tensor],
    weights: Mapping[str, float],
    config: AdvantageSection,
    earlier: Sequence[Tensor] | None = None,
    wins: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Compute the advantages of the images of an update.

    Args:
        total: Weighted sum of the rewards of each image, `[P, G]` float64.
        each: Unweighted reward of each model, `[P, G]` float64; only for `rewards: each`.
        weights: Factor of each model in the sum.
        config: Options.
        earlier: Rewards of each of the P prompts from earlier updates, for `history`.
        wins: Win rates of the models that compare images in pairs, `[P, G]` float64, which replace those of their
            scores; only with a single model, or with `rewards: each`.

    Returns:
        `[P, G]`, float64.
    """
    compared = wins or {}
    if config.rewards == "each":
        ranks = {name: compared[name] if name in compared else _ranked(each[name], config) for name in each}
        parts = [weights[name] * deviations(ranks[name], "group", "group") for name in sorted(each)]
        values = torch.stack(parts).sum(dim=0)
    elif compared:
        (values,) = compared.values()
        assert len(weights) == 1, "a sum of several rewards has no comparisons"
    else:
        values = _ranked(total, config)
    if earlier is None:
        return deviations(values, config.centre, config.scale).clamp(-config.limit, config.limit)
    return _with_history(values, earlier).clamp(-config.limit, config.limit)


def _with_history(values: Tensor, earlier: Sequence[Tensor]) -> Tensor:
    """Compare each image with the rewards that its prompt has had before, together with those of its group."""
    known = [torch.cat([past, row]) for past, row in zip(earlier, values, strict=True)]
    means = torch.stack([rewards.mean() for rewards in known])[:, None]
    spreads = torch.stack([rewards.std() for rewards in known])[:, None]
    return (values - means) / (spreads + 1e-8)


def _ranked(values: Tensor, config: AdvantageSection) -> Tensor:
    return win_rates(values, config.margin) if config.rank == "win_rate" else values


def means_of_blocks(values: Tensor, size: int) -> Tensor:
    """Average consecutive values of each group, `[P, G]` to `[P, G / size]`: the values of a tree's inner states."""
    return values if size == 1 else values.reshape(len(values), -1, size).mean(dim=2)
