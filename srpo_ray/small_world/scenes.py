"""Scenes of the small world: contents, places and styles as numbers, drawn at random from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from srpo_ray.small_world.prompts import (
    AXES,
    MOST_OBJECTS,
    STYLE_WORDS,
    UNNAMED,
    WORDS,
    Content,
    all_contents,
    caption,
    seen_contents,
)
from srpo_ray.small_world.shapes import BORDER, REACH, SIZE, Floats, Ints

_PLAIN_CAPTION_SHARE = 0.4
_KIND_SHARES = {"one": 0.3, "equal": 0.25, "pair": 0.45}
# "AI look" of axes that no word describes: little detail with a thin tail, saturated, any brightness and vignette.
_AI_LOOK = {"detail": (1.3, 3.5), "saturation": (4.0, 1.8), "brightness": (1.0, 1.0), "vignette": (1.3, 2.0)}
_BROAD_LOOK: dict[str, tuple[float, float]] = dict.fromkeys((*AXES, *UNNAMED), (1.0, 1.0))


@dataclass(frozen=True)
class Scenes:
    """Contents and styles of n images; every field is an array of length n.

    Attributes:
        content: index into `prompts.all_contents()`.
        word: index into `prompts.WORDS`, or -1 for a plain caption.
        x, y: [n, 3] object centres in pixels; entries beyond the content's objects have no meaning.
        radius: [n, 3] object sizes in pixels.
        hue_shift: [n, 3] deviations in degrees from the colours' hues.
        detail, saturation, brightness, vignette: style, each in [0, 1].
    """

    content: Ints
    word: Ints
    x: Floats
    y: Floats
    radius: Floats
    hue_shift: Floats
    detail: Floats
    saturation: Floats
    brightness: Floats
    vignette: Floats

    def __len__(self) -> int:
        return len(self.content)

    def __getitem__(self, index: slice | NDArray[np.int64] | NDArray[np.bool_]) -> Scenes:
        """Select scenes by a slice, an index array or a mask."""
        return Scenes(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    @property
    def contents(self) -> list[Content]:
        """Contents of the scenes."""
        return [all_contents()[index] for index in self.content.tolist()]


@dataclass(frozen=True)
class ContentTable:
    """All contents as arrays, one row per content.

    Attributes:
        color, shape: [n, 3] indices of the objects; 0 beyond `count`.
        count: number of objects.
        background: index of the background.
        relation: 0 for none, 1 for left of, 2 for above.
        index: row of each content.
    """

    color: Ints
    shape: Ints
    count: Ints
    background: Ints
    relation: Ints
    index: dict[Content, int]


@cache
def content_table() -> ContentTable:
    """Return `prompts.all_contents()` as arrays."""
    contents = all_contents()
    kinds = np.zeros((len(contents), MOST_OBJECTS, 2), dtype=np.int64)
    for row, content in enumerate(contents):
        kinds[row, : len(content.objects)] = content.objects
    relations = {None: 0, "left of": 1, "above": 2}
    return ContentTable(
        kinds[:, :, 0],
        kinds[:, :, 1],
        np.array([len(content.objects) for content in contents]),
        np.array([content.background for content in contents]),
        np.array([relations[content.relation] for content in contents]),
        {content: row for row, content in enumerate(contents)},
    )


def sample_scenes(
    count: int,
    seed: int,
    contents: Sequence[Content] | None = None,
    look: Literal["ai", "broad"] = "ai",
) -> Scenes:
    """Draw scenes, deterministically for the same arguments.

    Args:
        count: number of scenes, at least 1.
        seed: non-negative seed.
        contents: contents to draw from, uniformly. By default the seen contents: 30% with one object, 25% with equal
            objects, 45% with a pair.
        look: distribution of style axes that no word describes: "ai" (flat and saturated) or "broad" (uniform).

    Raises:
        ValueError: for a count below 1, an empty list of contents or an unknown look.
    """
    if count < 1 or look not in ("ai", "broad"):
        raise ValueError(
            f"sample_scenes: expected count >= 1 and look 'ai' or 'broad', got {count} and {look!r}; fix them"
        )
    if contents is not None and not contents:
        raise ValueError("sample_scenes: expected at least one content, got none; pass prompts.all_contents()")
    rng = np.random.default_rng(seed)
    return _scenes(rng, _sample_contents(rng, count, contents), look)


def scenes_of(contents: Sequence[Content], seed: int, look: Literal["ai", "broad"] = "ai") -> Scenes:
    """Draw one scene of each content, in their order; the other arguments are those of `sample_scenes`."""
    rows = np.array([content_table().index[content] for content in contents])
    return _scenes(np.random.default_rng(seed), rows, look)


def _scenes(rng: np.random.Generator, content: Ints, look: Literal["ai", "broad"]) -> Scenes:
    count = len(content)
    weights = np.array([word.weight for word in STYLE_WORDS.values()])
    word = rng.choice(len(WORDS), size=count, p=weights / weights.sum())
    word[rng.random(count) < _PLAIN_CAPTION_SHARE] = -1
    style = _sample_styles(rng, word, _AI_LOOK if look == "ai" else _BROAD_LOOK)
    x, y, radius = _sample_places(rng, content)
    hue_shift = rng.uniform(-4.0, 4.0, (count, MOST_OBJECTS)).astype(np.float32)
    return Scenes(content, word.astype(np.int64), x, y, radius, hue_shift, **style)


def captions(scenes: Scenes) -> list[str]:
    """Return one caption per scene, with the style word if the scene has one."""
    words = [None if index < 0 else WORDS[index] for index in scenes.word.tolist()]
    return [caption(content, word) for content, word in zip(scenes.contents, words, strict=True)]


@cache
def _rows_of_kinds() -> dict[str, Ints]:
    """Rows of the seen contents of each kind."""
    rows = content_table().index
    return {
        kind: np.array([rows[content] for content in seen_contents() if content.kind == kind]) for kind in _KIND_SHARES
    }


def _sample_contents(rng: np.random.Generator, count: int, contents: Sequence[Content] | None) -> Ints:
    if contents is not None:
        rows = np.array([content_table().index[content] for content in contents])
        return rows[rng.integers(len(rows), size=count)]
    groups = list(_rows_of_kinds().values())
    group = rng.choice(len(groups), size=count, p=list(_KIND_SHARES.values()))
    sizes = np.array([len(rows) for rows in groups])[group]
    offset = np.floor(rng.random(count) * sizes).astype(np.int64)
    return np.concatenate(groups)[np.cumsum([0, *(len(rows) for rows in groups[:-1])])[group] + offset]


# Radius and free area of the objects by their number: one object moves over the image, two over a half each, three over
# a quarter each. Relative places are fractions of the image's side.
_RADIUS = {1: (11.0, 20.0), 2: (8.0, 11.5), 3: (7.0, 9.0)}
_GAP = 1.5


def _sample_places(rng: np.random.Generator, content: Ints) -> tuple[Floats, Floats, Floats]:
    """Draw centres and radii [n, 3] of objects that do not touch each other or the border."""
    table = content_table()
    number, relation = table.count[content], table.relation[content]
    limits = np.array([_RADIUS[count] for count in number.tolist()]).reshape(-1, 1, 2)
    radius = limits[..., 0] + rng.random((len(content), MOST_OBJECTS)) * (limits[..., 1] - limits[..., 0])
    # Equal objects have equal sizes.
    radius = np.where((relation == 0)[:, None], radius[:, :1], radius)
    # Two equal objects are side by side or one above the other, as pairs are.
    sideways = np.where(relation == 0, rng.random(len(content)) < 0.5, relation == 1)
    swap = np.where(relation == 0, rng.integers(2, size=len(content)), 0)
    low, high = np.zeros((len(content), 3, 2)), np.ones((len(content), 3, 2))
    for slot in range(2):
        two, half = number == 2, (slot ^ swap) / 2
        for axis, chosen in ((0, two & sideways), (1, two & ~sideways)):
            low[chosen, slot, axis], high[chosen, slot, axis] = half[chosen], half[chosen] + 0.5
    three = number == 3
    quarters = np.argsort(rng.random((len(content), 4)), axis=1)[:, :3]
    corner = np.stack([quarters % 2, quarters // 2], axis=-1) / 2
    low[three], high[three] = corner[three], corner[three] + 0.5
    reach = (REACH * radius + _GAP)[..., None]
    # The outer border is wider than the gap between two halves.
    first = SIZE * low + reach + (low == 0) * (BORDER + 1 - _GAP)
    last = SIZE * high - reach - (high == 1) * (BORDER + 1 - _GAP)
    place = (first + rng.random((len(content), 3, 2)) * (last - first)).astype(np.float32)
    return place[..., 0], place[..., 1], radius.astype(np.float32)


def _sample_styles(rng: np.random.Generator, word: Ints, look: dict[str, tuple[float, float]]) -> dict[str, Floats]:
    styles: dict[str, Floats] = {}
    for axis in (*AXES, *UNNAMED):
        named = [style.axes.get(axis, look[axis]) for style in STYLE_WORDS.values()]  # type: ignore[call-overload]
        # The last row is for word == -1, a plain caption.
        shapes = np.array([*named, look[axis]])[word]
        styles[axis] = rng.beta(shapes[:, 0], shapes[:, 1]).astype(np.float32)
    return styles
