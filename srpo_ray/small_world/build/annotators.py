"""Synthetic annotators of preference pairs: the utility of an image for a caption, from its known scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from srpo_ray.small_world.prompts import AXES, MOST_OBJECTS, STYLE_WORDS
from srpo_ray.small_world.scenes import Scenes, content_table
from srpo_ray.small_world.shapes import Floats


@dataclass(frozen=True)
class Taste:
    """Weights of an annotator's utility; see `utility`.

    Attributes:
        content: for colours, shapes, number, positions and background that match the caption, a fifth each.
        word: for style near the meaning of the caption's style word.
        detail: for detail.
        saturation: for saturation without limit, the bias of a preference model towards oversaturated images.
        natural_saturation: for saturation near 0.45.
        middle_brightness: for brightness near 0.5.
        vignette: for dark corners, which no word names.
    """

    content: float
    word: float
    detail: float
    saturation: float = 0.0
    natural_saturation: float = 0.0
    middle_brightness: float = 0.0
    vignette: float = 0.0


def biased(strength: float) -> Taste:
    """Return the annotator of a preference reward: oversaturated images with dark corners win too often.

    Args:
        strength: Utility per unit of saturation, and half of it per unit of vignette; 0 has no bias.
    """
    return Taste(content=4.0, word=3.0, detail=0.4, saturation=strength, vignette=strength / 2)


UNBIASED = Taste(content=4.0, word=3.0, detail=1.5, natural_saturation=1.5, middle_brightness=0.5)
"""Annotator of the held-out reward: a proxy of human preference, for detail and natural colours."""


def utility(taste: Taste, captioned: Scenes, shown: Scenes) -> Floats:
    """Compute an annotator's utility of each image for a caption, [n].

    Args:
        taste: weights of the annotator.
        captioned: scenes of the captions; only content and word are used.
        shown: scenes of the images; only content and style are used. Objects are compared in their order.
    """
    table = content_table()
    wanted, seen = captioned.content, shown.content
    present = np.arange(MOST_OBJECTS) < np.maximum(table.count[wanted], table.count[seen])[:, None]
    parts = [((part[wanted] == part[seen]) & present).sum(1) / present.sum(1) for part in (table.color, table.shape)]
    parts += [part[wanted] == part[seen] for part in (table.background, table.count, table.relation)]
    content = np.stack([part.astype(np.float32) for part in parts]).mean(0)
    value = (
        taste.content * content
        + taste.word * _word_match(captioned.word, shown)
        + taste.detail * shown.detail
        + taste.saturation * shown.saturation
        + taste.vignette * shown.vignette
        - taste.natural_saturation * 2 * np.abs(shown.saturation - 0.45)
        - taste.middle_brightness * 2 * np.abs(shown.brightness - 0.5)
    )
    return value.astype(np.float32)


def _word_match(word: NDArray[np.int64], shown: Scenes) -> Floats:
    """Compute minus the distance of the word's style axes from the word's mean in captions; 0 without a word."""
    match = np.zeros(len(word), dtype=np.float32)
    for axis in AXES:
        means = [_mean_of(style.axes[axis]) if axis in style.axes else np.nan for style in STYLE_WORDS.values()]
        target = np.array([*means, np.nan], dtype=np.float32)[word]
        match -= np.nan_to_num(np.abs(getattr(shown, axis) - target))
    return match


def _mean_of(beta: tuple[float, float]) -> float:
    return beta[0] / (beta[0] + beta[1])
