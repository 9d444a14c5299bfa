"""Heat maps and picture strips of a study, for its page."""

import base64
import io
from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from srpo_ray.reports import svg

_CELL_WIDTH, _CELL_HEIGHT = 46.0, 26.0
_CHARACTER_WIDTH = 6.8
_THUMBNAIL, _GAP = 96, 4
"""Pixels."""


def heat_map(rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], description: str) -> str:
    """Correlations as colours: blue above 0, orange below, stronger the farther from it.

    Args:
        rows: Names of R rows.
        columns: Names of C columns.
        values: `[R][C]` in [-1, 1].
        description: For screen readers.
    """
    left = 12 + _CHARACTER_WIDTH * max(len(name) for name in rows)
    top = 16 + _CHARACTER_WIDTH * 0.75 * max(len(name) for name in columns)
    parts = []
    for index, name in enumerate(columns):
        x = left + (index + 0.5) * _CELL_WIDTH
        parts.append(svg.slanted(x - 4, top - 8, name, "tick"))
    for line, name in enumerate(rows):
        y = top + line * _CELL_HEIGHT
        parts.append(svg.text(left - 8, y + _CELL_HEIGHT / 2 + 4, name, "", "end"))
        for index, value in enumerate(values[line]):
            x = left + index * _CELL_WIDTH
            css = "c0" if value >= 0 else "c1"
            tip = f"{name}, {columns[index]}: {value:+.3f}"
            parts.append(
                svg.cell(x + 1, y + 1, _CELL_WIDTH - 2, _CELL_HEIGHT - 2, css, opacity=0.85 * abs(value), tooltip=tip)
            )
            center = x + _CELL_WIDTH / 2
            label = f"{value:+.2f}".replace("0.", ".")
            parts.append(svg.text(center, y + _CELL_HEIGHT / 2 + 4, label, "number", "middle"))
    right = 24 + _CHARACTER_WIDTH * 0.75 * len(columns[-1])
    width, height = left + len(columns) * _CELL_WIDTH + right, top + len(rows) * _CELL_HEIGHT + 4
    return svg.drawing(width, height, parts, description, fixed=True)


def strip(images: Tensor) -> str:
    """Pictures `[B, 3, H, W]` side by side, as the text of a PNG data URI; small ones are enlarged without blur."""
    pixels = (images.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    height = round(_THUMBNAIL * images.shape[2] / images.shape[3])
    enlarged = images.shape[3] <= _THUMBNAIL
    resampling = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
    page = Image.new("RGBA", (len(pixels) * (_THUMBNAIL + _GAP) - _GAP, height))
    for index, array in enumerate(pixels):
        page.paste(Image.fromarray(array).resize((_THUMBNAIL, height), resampling), (index * (_THUMBNAIL + _GAP), 0))
    file = io.BytesIO()
    page.save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
