"""Renderer of the small world: 64x64 images with content and style given as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from srpo_ray.small_world.prompts import (
    AXES,
    STYLE_WORDS,
    WORDS,
    Content,
    caption,
    seen_contents,
)

SIZE = 64
HUES = np.array([0.0, 28.0, 56.0, 120.0, 180.0, 228.0, 272.0, 322.0], dtype=np.float32)
"""Hue in degrees of each entry of `prompts.COLORS`."""
BORDER = 2
"""Width in pixels of the image border that no object reaches."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_BACKGROUND_VALUE = np.array([0.86, 0.38, 0.07, 0.38], dtype=np.float32)
_BROWN = 3
_BROWN_HUE = 26.0
_OBJECT_VALUE = 0.76
# Stripes of period 8 along both pixel axes are equal in every cell of an 8x autoencoder, so it can encode them.
_STRIPE_PERIOD = 8.0
_PLAIN_CAPTION_SHARE = 0.4
# "AI look" of axes that no word describes: little detail with a thin tail, saturated, any brightness.
_AI_LOOK = {"detail": (1.3, 3.5), "saturation": (4.0, 1.8), "brightness": (1.0, 1.0)}
_BROAD_LOOK = {"detail": (1.0, 1.0), "saturation": (1.0, 1.0), "brightness": (1.0, 1.0)}


@dataclass(frozen=True)
class Scenes:
    """Contents and styles of n images; every field is an array of length n.

    Attributes:
        color, shape, background: indices into the vocabularies of `prompts`.
        word: index into `prompts.WORDS`, or -1 for a plain caption.
        x, y: object centre in pixels.
        radius: object size in pixels.
        hue_shift: deviation in degrees from the colour's hue.
        detail, saturation, brightness: style, each in [0, 1].
    """

    color: Ints
    shape: Ints
    background: Ints
    word: Ints
    x: Floats
    y: Floats
    radius: Floats
    hue_shift: Floats
    detail: Floats
    saturation: Floats
    brightness: Floats

    def __len__(self) -> int:
        return len(self.color)

    def __getitem__(self, index: slice | NDArray[np.int64] | NDArray[np.bool_]) -> Scenes:
        """Select scenes by a slice, an index array or a mask."""
        return Scenes(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


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
        contents: contents to draw from, uniformly (default: the 96 seen contents, without the held-out ones).
        look: distribution of style axes that no word describes: "ai" (flat and saturated) or "broad" (uniform).

    Raises:
        ValueError: for a count below 1, an empty list of contents or an unknown look.
    """
    if count < 1 or look not in ("ai", "broad"):
        raise ValueError(
            f"sample_scenes: expected count >= 1 and look 'ai' or 'broad', got {count} and {look!r}; fix them"
        )
    pool = np.array(seen_contents() if contents is None else contents, dtype=np.int64).reshape(-1, 3)
    if len(pool) == 0:
        raise ValueError("sample_scenes: expected at least one content, got none; pass prompts.all_contents()")
    rng = np.random.default_rng(seed)
    content = pool[rng.integers(len(pool), size=count)]
    weights = np.array([word.weight for word in STYLE_WORDS.values()])
    word = rng.choice(len(WORDS), size=count, p=weights / weights.sum())
    word[rng.random(count) < _PLAIN_CAPTION_SHARE] = -1
    radius = rng.uniform(13.0, 21.0, count)
    reach = SIZE / 2 - BORDER - 1 - _REACH * radius
    style = _sample_styles(rng, word, _AI_LOOK if look == "ai" else _BROAD_LOOK)
    return Scenes(
        color=content[:, 0],
        shape=content[:, 1],
        background=content[:, 2],
        word=word.astype(np.int64),
        x=(SIZE / 2 + rng.uniform(-1, 1, count) * reach).astype(np.float32),
        y=(SIZE / 2 + rng.uniform(-1, 1, count) * reach).astype(np.float32),
        radius=radius.astype(np.float32),
        hue_shift=rng.uniform(-4.0, 4.0, count).astype(np.float32),
        **style,
    )


def captions(scenes: Scenes) -> list[str]:
    """Return one caption per scene, with the style word if the scene has one."""
    contents = np.stack([scenes.color, scenes.shape, scenes.background], axis=1).tolist()
    words = [None if index < 0 else WORDS[index] for index in scenes.word.tolist()]
    return [caption((c, s, b), word) for (c, s, b), word in zip(contents, words, strict=True)]


def render(scenes: Scenes) -> Floats:
    """Draw scenes as float32 [n, 3, 64, 64] in [0, 1], antialiased."""
    return np.concatenate([_render_chunk(scenes[start : start + 512]) for start in range(0, len(scenes), 512)])


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


def _sample_styles(rng: np.random.Generator, word: Ints, look: dict[str, tuple[float, float]]) -> dict[str, Floats]:
    styles: dict[str, Floats] = {}
    for axis in AXES:
        named = [style.axes.get(axis, look[axis]) for style in STYLE_WORDS.values()]
        # The last row is for word == -1, a plain caption.
        shapes = np.array([*named, look[axis]])[word]
        styles[axis] = rng.beta(shapes[:, 0], shapes[:, 1]).astype(np.float32)
    return styles


def _render_chunk(scenes: Scenes) -> Floats:
    pixel = np.arange(SIZE, dtype=np.float32) + 0.5
    px, py = pixel[None, None, :], pixel[None, :, None]
    dx, dy = px - scenes.x[:, None, None], py - scenes.y[:, None, None]
    dx, dy = np.broadcast_arrays(dx, dy)
    cover = np.clip(0.5 - shape_distance(scenes.shape, dx, dy, scenes.radius), 0.0, 1.0)[:, None]
    detail = scenes.detail[:, None, None]
    stripes = np.cos(2 * np.pi * (px + py) / _STRIPE_PERIOD)
    counter_stripes = np.cos(2 * np.pi * (px - py) / _STRIPE_PERIOD)
    shading = np.clip(-(dx + dy) / (2 * scenes.radius[:, None, None]), -1.0, 1.0)
    gradient = (px + py) / SIZE - 1.0
    object_value = _OBJECT_VALUE * (1 + detail * (0.21 * stripes + 0.10 * shading))
    ground_value = _BACKGROUND_VALUE[scenes.background][:, None, None] * (
        1 + detail * (0.06 * counter_stripes + 0.08 * gradient)
    )
    image = cover * object_value[:, None] * _object_tint(scenes)[:, :, None, None]
    image += (1 - cover) * ground_value[:, None] * _ground_tint(scenes)[:, :, None, None]
    brightness = 0.60 + 0.40 * scenes.brightness
    return np.clip(image * brightness[:, None, None, None], 0.0, 1.0).astype(np.float32)


def _object_tint(scenes: Scenes) -> Floats:
    pure = hue_to_rgb(HUES[scenes.color] + scenes.hue_shift)
    saturation = (0.35 + 0.65 * scenes.saturation)[:, None]
    return (1 - saturation + saturation * pure).astype(np.float32)


def _ground_tint(scenes: Scenes) -> Floats:
    pure = hue_to_rgb(np.full(len(scenes), _BROWN_HUE, dtype=np.float32))
    # Brown fades less than objects do, because only its chroma distinguishes it from gray.
    saturation = np.where(scenes.background == _BROWN, 0.50 + 0.30 * scenes.saturation, 0.0)[:, None]
    return (1 - saturation + saturation * pure).astype(np.float32)
