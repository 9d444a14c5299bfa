"""Sources of judged images: the rows of `data.pairs`."""

from typing import NamedTuple

import torch
from torch import Tensor

from srpo_ray.algorithms.base import Batch
from srpo_ray.config.algorithms.preference import PreferenceConfig
from srpo_ray.models.conditioning import Conditioning


class Judged(NamedTuple):
    """Judged images of a micro-batch."""

    clean: tuple[Tensor, ...]
    """Clean tokens `[B, N, C]` of each side: preferred and other images, or labelled ones."""
    conditionings: tuple[Conditioning, ...]
    """Text features of each side."""
    signs: tuple[Tensor, ...]
    """1 for preferred and liked images, -1 for others, `[B]` of each side."""
    confidence: Tensor
    """Confidence of each row in its judgement, `[B]` in (0, 1]."""


def judged_images(config: PreferenceConfig, batch: Batch) -> Judged:
    """Order the judged images of a micro-batch by side, preferred ones first."""
    assert batch.images is not None, "the config requires data.pairs"
    assert batch.labels is not None, "judged images have labels"
    reverse = config.orientation == "reversed"
    if config.source == "labels":
        label = batch.labels[:, 0].to(batch.images)
        sign = -label.sign() if reverse else label.sign()
        return Judged((batch.images[:, 0],), (batch.conditioning,), (sign,), label.abs())
    other = batch.conditioning
    if config.uses_own_captions:
        assert batch.other_conditioning is not None, "the data requires other captions"
        other = batch.other_conditioning
    labels = batch.labels.to(batch.images)
    confidence = labels[:, 0] - labels[:, 1]
    ones = torch.ones_like(confidence)
    sides = [(batch.images[:, 0], batch.conditioning), (batch.images[:, 1], other)]
    clean, texts = zip(*(reversed(sides) if reverse else sides), strict=True)
    count = config.sides
    return Judged(clean[:count], texts[:count], (ones, -ones)[:count], confidence)
