"""Renderer of the small world: 64x64 images of scenes."""

from __future__ import annotations

import numpy as np

from srpo_ray.small_world.scenes import Scenes, content_table
from srpo_ray.small_world.shapes import SIZE, Floats, Ints, shape_distance

HUES = np.array([0.0, 28.0, 56.0, 120.0, 180.0, 228.0, 272.0, 322.0], dtype=np.float32)
"""Hue in degrees of each entry of `prompts.COLORS`."""
OBJECT_VALUE = 0.76
"""HSV value of an object at full brightness."""
DARKEST, PALEST = 0.60, 0.35
"""Factor of all values at brightness 0, and HSV saturation of an object at saturation 0."""
VIGNETTE = 0.55
"""Share of the light that the corners lose at vignette 1."""
TEXTURE_CONTRAST = (0.21, 0.06)
"""Amplitude of the stripes of objects and of backgrounds at detail 1, relative to their light."""

_BACKGROUND_VALUE = np.array([0.86, 0.38, 0.10, 0.38], dtype=np.float32)
_BROWN = 3
_BROWN_HUE = 26.0
# Stripes of period 8 along both pixel axes are equal in every cell of an 8x autoencoder, so it can encode them.
_STRIPE_PERIOD = 8.0


def render(scenes: Scenes) -> Floats:
    """Draw scenes as float32 [n, 3, 64, 64] in [0, 1], antialiased."""
    return np.concatenate([_render_chunk(scenes[start : start + 256]) for start in range(0, len(scenes), 256)])


def hue_to_rgb(hue: Floats) -> Floats:
    """Convert hues in degrees [n] to pure colours [n, 3] in [0, 1] (largest channel 1, smallest 0)."""
    sector = hue[:, None] / 60.0 + np.array([0.0, 4.0, 2.0], dtype=np.float32)
    return np.clip(np.abs(sector % 6.0 - 3.0) - 1.0, 0.0, 1.0).astype(np.float32)


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
