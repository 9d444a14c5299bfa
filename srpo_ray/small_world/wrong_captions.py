"""Wrong captions of the small world: a word for a colour, a shape or the background is exchanged."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Literal, get_args

import numpy as np

from srpo_ray.small_world.prompts import BACKGROUNDS, COLORS, SHAPES, Content, caption, seen_contents

Part = Literal["color", "shape", "background"]
"""Part of a content that a word names."""
PARTS: tuple[Part, ...] = get_args(Part)


def wrong_captions(contents: Sequence[Content], seed: int, parts: Sequence[Part] = PARTS) -> list[str]:
    """Draw a caption of another content for each content, which differs from it in one word.

    The other content is among the seen ones, so that no caption of a held-out content is trained on.

    Args:
        contents: Seen contents.
        seed: Non-negative seed.
        parts: Parts of which one is exchanged, all equally likely.
    """
    rng = np.random.default_rng(seed)
    return [_drawn(content, parts, rng) for content in contents]


def _drawn(content: Content, parts: Sequence[Part], rng: np.random.Generator) -> str:
    part = parts[int(rng.integers(len(parts)))]
    found = [each for each in _changed(content, part) if each in _seen()]
    return caption(found[int(rng.integers(len(found)))])


def _changed(content: Content, part: Part) -> Iterator[Content]:
    """Yield all contents with another word for a part; equal objects share their word."""
    if part == "background":
        for ground in range(len(BACKGROUNDS)):
            if ground != content.background:
                yield content._replace(background=ground)
        return
    axis = 0 if part == "color" else 1
    for index in range(len(content.objects)) if content.kind == "pair" else [None]:
        for value in range(len(COLORS if part == "color" else SHAPES)):
            objects = tuple(
                _with(each, axis, value) if index in (None, place) else each
                for place, each in enumerate(content.objects)
            )
            if objects != content.objects:
                yield content._replace(objects=objects)


def _with(kind: tuple[int, int], axis: int, value: int) -> tuple[int, int]:
    return (value, kind[1]) if axis == 0 else (kind[0], value)


@cache
def _seen() -> frozenset[Content]:
    return frozenset(seen_contents())
