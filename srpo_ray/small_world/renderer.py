"""Renderer of the small world: 64x64 images with content and style given as numbers."""

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

SIZE = 64
HUES = np.array([0.0, 28.0, 56.0, 120.0, 180.0, 228.0, 272.0, 322.0], dtype=np.float32)
"""Hue in degrees of each entry of `prompts.COLORS`."""
BORDER = 2
"""Width in pixels of the image border that no object reaches."""
OBJECT_VALUE = 0.76
"""HSV value of an object at full brightness."""
DARKEST, PALEST = 0.60, 0.35
"""Factor of all values at brightness 0, and HSV saturation of an object at saturation 0."""
VIGNETTE = 0.55
"""Share of the light that the corners lose at vignette 1."""
TEXTURE_CONTRAST = (0.21, 0.06)
"""Amplitude of the stripes of objects and of backgrounds at detail 1, relative to their light."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_BACKGROUND_VALUE = np.array([0.86, 0.38, 0.10, 0.38], dtype=np.float32)
_BROWN = 3
_BROWN_HUE = 26.0
# Stripes of period 8 along both pixel axes are equal in every cell of an 8x autoencoder, so it can encode them.
_STRIPE_PERIOD = 8.0
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


def render(scenes: Scenes) -> Floats:
    """Draw scenes as float32 [n, 3, 64, 64] in [0, 1], antialiased."""
    return np.concatenate([_render_chunk(scenes[start : start + 256]) for start in range(0, len(scenes), 256)])


def shape_distance(shape: Ints, dx: Floats, dy: Floats, radius: Floats) -> Floats:
    """Return the signed distance in pixels to each outline (negative inside).

    Args:
        shape: [n] indices into `prompts.SHAPES`.
        dx, dy: [n, H, W] offsets from the centre, y downwards.
        radius: [n] sizes in pixels.
    """
    distance = np.empty(np.broadcast_shapes(dx.shape, dy.shape), dtype=np.float32)
    for index, outline in enumerate(_OUTLINES):
        chosen = shape == index
        if chosen.any():
            distance[chosen] = outline(dx[chosen], dy[chosen], radius[chosen, None, None])
    return distance


def shape_area(shape: int) -> float:
    """Return the area of a shape of radius 1, in square pixels."""
    return _AREAS[shape]


def hue_to_rgb(hue: Floats) -> Floats:
    """Convert hues in degrees [n] to pure colours [n, 3] in [0, 1] (largest channel 1, smallest 0)."""
    sector = hue[:, None] / 60.0 + np.array([0.0, 4.0, 2.0], dtype=np.float32)
    return np.clip(np.abs(sector % 6.0 - 3.0) - 1.0, 0.0, 1.0).astype(np.float32)


# Sizes relative to the radius, chosen so that the four shapes look equally large.
_REACH = 1.24  # the triangle's tip, the farthest point of any shape
_HALF_SQUARE, _TRIANGLE_INNER, _ARM = 0.86, 0.62, 0.36
_AREAS = (np.pi, 4 * _HALF_SQUARE**2, 3 * np.sqrt(3) * _TRIANGLE_INNER**2, 8 * _ARM - 4 * _ARM**2)


def _circle(dx: Floats, dy: Floats, r: Floats) -> Floats:
    return np.hypot(dx, dy) - r


def _square(dx: Floats, dy: Floats, r: Floats) -> Floats:
    return np.maximum(np.abs(dx), np.abs(dy)) - _HALF_SQUARE * r


def _triangle(dx: Floats, dy: Floats, r: Floats) -> Floats:
    return np.maximum(dy, np.sqrt(3) / 2 * np.abs(dx) - dy / 2) - _TRIANGLE_INNER * r


def _cross(dx: Floats, dy: Floats, r: Floats) -> Floats:
    ax, ay = np.abs(dx), np.abs(dy)
    return np.minimum(np.maximum(ax - _ARM * r, ay - r), np.maximum(ax - r, ay - _ARM * r))


_OUTLINES = (_circle, _square, _triangle, _cross)


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
    reach = (_REACH * radius + _GAP)[..., None]
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


def vignette_profile() -> Floats:
    """Return the squared distance of each pixel from the image's centre [64, 64], 1 in the corners."""
    offset = (np.arange(SIZE, dtype=np.float32) + 0.5) / (SIZE / 2) - 1
    return ((offset[None, :] ** 2 + offset[:, None] ** 2) / 2).astype(np.float32)


def stripe_patterns() -> Floats:
    """Return the texture of objects and that of backgrounds [2, 64, 64]: diagonal stripes with values in [-1, 1]."""
    pixel = np.arange(SIZE, dtype=np.float32) + 0.5
    across = np.stack([pixel[None, :] + pixel[:, None], pixel[None, :] - pixel[:, None]])
    return np.cos(2 * np.pi * across / _STRIPE_PERIOD).astype(np.float32)


def _render_chunk(scenes: Scenes) -> Floats:
    pixel = np.arange(SIZE, dtype=np.float32) + 0.5
    px, py = pixel[None, None, :], pixel[None, :, None]
    detail = scenes.detail[:, None, None]
    stripes, counter_stripes = stripe_patterns()
    gradient = (px + py) / SIZE - 1.0
    table = content_table()
    ground_value = _BACKGROUND_VALUE[table.background[scenes.content]][:, None, None] * (
        1 + detail * (TEXTURE_CONTRAST[1] * counter_stripes + 0.08 * gradient)
    )
    image = ground_value[:, None] * _ground_tint(scenes)[:, :, None, None]
    for slot in range(int(table.count[scenes.content].max())):
        rows = np.flatnonzero(table.count[scenes.content] > slot)
        x, y, radius = (getattr(scenes, name)[rows, slot, None, None] for name in ("x", "y", "radius"))
        dx, dy = np.broadcast_arrays(px - x, py - y)
        outline = shape_distance(table.shape[scenes.content[rows], slot], dx, dy, radius[:, 0, 0])
        cover = np.clip(0.5 - outline, 0.0, 1.0)[:, None]
        shading = np.clip(-(dx + dy) / (2 * radius), -1.0, 1.0)
        value = OBJECT_VALUE * (1 + detail[rows] * (TEXTURE_CONTRAST[0] * stripes + 0.10 * shading))
        tint = _object_tint(scenes, rows, slot)[:, :, None, None]
        image[rows] += cover * (value[:, None] * tint - image[rows])
    light = (DARKEST + (1 - DARKEST) * scenes.brightness)[:, None, None]
    light = light * (1 - VIGNETTE * scenes.vignette[:, None, None] * vignette_profile())
    return np.clip(image * light[:, None], 0.0, 1.0).astype(np.float32)


def _object_tint(scenes: Scenes, rows: Ints, slot: int) -> Floats:
    color = content_table().color[scenes.content[rows], slot]
    pure = hue_to_rgb(HUES[color] + scenes.hue_shift[rows, slot])
    saturation = (PALEST + (1 - PALEST) * scenes.saturation[rows])[:, None]
    return (1 - saturation + saturation * pure).astype(np.float32)


def _ground_tint(scenes: Scenes) -> Floats:
    pure = hue_to_rgb(np.full(len(scenes), _BROWN_HUE, dtype=np.float32))
    # Brown fades less than objects do, because only its chroma distinguishes it from gray.
    brown = content_table().background[scenes.content] == _BROWN
    saturation = np.where(brown, 0.50 + 0.30 * scenes.saturation, 0.0)[:, None]
    return (1 - saturation + saturation * pure).astype(np.float32)
