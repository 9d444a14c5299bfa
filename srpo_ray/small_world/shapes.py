"""Shapes of the small world: outlines, areas and the geometry of an image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIZE = 64
"""Side of an image in pixels."""
BORDER = 2
"""Width in pixels of the image border that no object reaches."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


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


# Sizes relative to the radius, chosen so that the four shapes look equally large.
REACH = 1.24
"""Distance of the farthest point of any shape, the tip of the triangle, in radii."""
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
