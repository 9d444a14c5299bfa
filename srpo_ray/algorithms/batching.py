"""Micro-batches whose rollouts are sampled together, and the share of each in the result."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor

from srpo_ray.algorithms.base import Batch
from srpo_ray.models.conditioning import Conditioning

T = TypeVar("T")


def in_groups(batches: Sequence[Batch], size: int) -> list[Sequence[Batch]]:
    """Divide micro-batches into consecutive groups.

    Args:
        batches: Micro-batches of one worker in an update.
        size: Micro-batches of a group; the last group may have fewer.
    """
    return [batches[start : start + size] for start in range(0, len(batches), size)]


def join_batches(batches: Sequence[Batch]) -> Batch:
    """Join the rows of micro-batches of one worker and update; a single one is returned as it is.

    Args:
        batches: Micro-batches with images of one size. All have images, or none; likewise for labels and other
            captions.
    """
    first, *others = batches
    if not others:
        return first
    rows = [image for batch in batches for image in batch.draws.images]
    starts = accumulate((len(batch.prompts) for batch in batches), initial=0)
    return Batch(
        prompts=tuple(prompt for batch in batches for prompt in batch.prompts),
        conditioning=_join_features([batch.conditioning for batch in batches]),
        draws=replace(
            first.draws, samples=tuple(sample for sample, _ in rows), children=tuple(child for _, child in rows)
        ),
        images=_join_tensors([batch.images for batch in batches]),
        labels=_join_tensors([batch.labels for batch in batches]),
        image_rows=tuple(
            start + row for start, batch in zip(starts, batches, strict=False) for row in batch.image_rows
        ),
        other_conditioning=_join_optional([batch.other_conditioning for batch in batches]),
        size=first.size,
        words=_join_rows([batch.words for batch in batches]),
        keys=_join_rows([batch.keys for batch in batches]),
    )


def split_collected(collected: Any, batches: Sequence[Batch]) -> list[Any]:
    """Split what the phases collected for joined micro-batches into the values of each.

    Args:
        collected: Result of the last phase for `join_batches(batches)`. With several micro-batches, it must return the
            value of some rows for a slice of them, as a tensor does.
        batches: The micro-batches.
    """
    if len(batches) == 1:
        return [collected]
    edges = accumulate((len(batch.prompts) for batch in batches), initial=0)
    return [collected[start:stop] for start, stop in pairwise(edges)]


def _join_tensors(parts: Sequence[Tensor | None]) -> Tensor | None:
    found = [part for part in parts if part is not None]
    assert len(found) in (0, len(parts)), "all micro-batches of an update have images, or none has"
    return torch.cat(found) if found else None


def _join_rows(parts: Sequence[tuple[T, ...] | None]) -> tuple[T, ...] | None:
    found = [part for part in parts if part is not None]
    assert len(found) in (0, len(parts)), "all micro-batches of an update have such values, or none has"
    return tuple(value for part in found for value in part) if found else None


def _join_features(parts: Sequence[Conditioning]) -> Conditioning:
    return Conditioning(
        torch.cat([part.prompt_embeds for part in parts]), torch.cat([part.pooled_prompt_embeds for part in parts])
    )


def _join_optional(parts: Sequence[Conditioning | None]) -> Conditioning | None:
    found = [part for part in parts if part is not None]
    assert len(found) in (0, len(parts)), "all micro-batches of an update have another caption, or none has"
    return _join_features(found) if found else None
