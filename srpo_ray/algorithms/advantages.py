"""Advantages of images within the group of their prompt, over the whole update."""

from collections.abc import Sequence

import torch
from torch import Tensor

from srpo_ray.algorithms.base import Batch, Gather


def table_of_update(batches: Sequence[Batch], values: Sequence[Tensor], gather: Gather) -> Tensor:
    """Gather one value per image of the update from all workers, bit-identical for any number of workers.

    Args:
        batches: This worker's micro-batches.
        values: Values `[B]` of the rows of each micro-batch; or `[B, K]`, K values of each sample's only image.
        gather: Collective that gathers a value of all workers.

    Returns:
        `[P, G]` on the CPU, float64: G images of each of the update's P samples, in the order of the samples; or
        `[P, K]`.
    """
    mine: dict[tuple[int, int], float] = {}
    for batch, column in zip(batches, values, strict=True):
        mine.update(zip(batch.draws.images, column.double().tolist(), strict=True))
    # A micro-batch that two workers have computed counts once.
    found = {image: value for part in gather(mine) for image, value in part.items()}
    samples = {sample for sample, _ in found}
    return torch.tensor([found[image] for image in sorted(found)], dtype=torch.float64).reshape(len(samples), -1)


def prompts_of_update(batches: Sequence[Batch], gather: Gather) -> list[str]:
    """Gather the prompts of the update's samples from all workers, in the order of the samples.

    A key replaces the prompt of a row with words or conditioning of its own.
    """
    mine = {
        sample: text
        for batch in batches
        for sample, text in zip(batch.draws.samples, batch.keys or batch.prompts, strict=True)
    }
    found = {sample: text for part in gather(mine) for sample, text in part.items()}
    return [found[sample] for sample in sorted(found)]


def rows_of(table: Tensor, batch: Batch) -> Tensor:
    """Select the entries `[B]` of a batch from a table of the update."""
    samples, children = zip(*batch.draws.images, strict=True)
    return table[list(samples), list(children)]


def group_advantages(rewards: Tensor, limit: float) -> Tensor:
    """Compute the deviation of each image from the mean of its group, in standard deviations of the group.

    Args:
        rewards: `[P, G]`: G images of each prompt, at least 2.
        limit: Maximum absolute advantage.

    Returns:
        `[P, G]`; zero for a group with equal rewards.
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return (centred / (rewards.std(dim=1, keepdim=True) + 1e-8)).clamp(-limit, limit)
