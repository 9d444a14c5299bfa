"""Contact sheet of the small world: rendered images at several styles beside samples of the tiny FLUX.

Use: `python -m srpo_ray.small_world.build.sheet OUT.png`
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxPipeline
from PIL import Image, ImageDraw
from torch import Tensor

from srpo_ray.small_world.build.flux import sample
from srpo_ray.small_world.prompts import Content, caption, split_contents
from srpo_ray.small_world.renderer import render
from srpo_ray.small_world.scenes import sample_scenes
from srpo_ray.small_world.weights import flux_dir

_STYLES = (
    (0.1, 0.7, 0.6),
    (0.9, 0.7, 0.6),
    (0.1, 0.1, 0.6),
    (0.1, 0.95, 0.6),
    (0.1, 0.7, 0.05),
    (0.1, 0.7, 0.95),
)
"""Detail, saturation and brightness of each rendered column."""
_WORDS = (None, "detailed", "flat", "vivid", "muted", "bright", "dark", "realistic", "cartoon")
_ZOOM, _TEXT_HEIGHT = 2, 16


def draw_sheet(pipeline: FluxPipeline, rows: int = 8, steps: int = 20) -> Image.Image:
    """Draw a sheet with one row per test content: renders of increasing style, then samples per style word."""
    contents = split_contents("test")[:rows]
    prompts = [caption(content, word) for content in contents for word in _WORDS]
    samples = sample(pipeline, prompts, steps=steps, seed=7).reshape(rows, len(_WORDS), 3, 64, 64)
    images = [torch.cat([_renders(content), drawn]) for content, drawn in zip(contents, samples, strict=True)]
    heads = [f"d{d:g} s{s:g} b{b:g}" for d, s, b in _STYLES] + [f"FLUX {word or 'plain'}" for word in _WORDS]
    return _grid(torch.stack(images), heads, [caption(content) for content in contents])


def main() -> None:
    """Write the sheet of the shipped weights to the path on the command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m srpo_ray.small_world.build.sheet OUT.png")
    draw_sheet(FluxPipeline.from_pretrained(flux_dir())).save(Path(sys.argv[1]))


def _renders(content: Content) -> Tensor:
    scenes = sample_scenes(len(_STYLES), seed=3, contents=[content])
    detail, saturation, brightness = np.array(_STYLES, dtype=np.float32).T
    return torch.from_numpy(render(replace(scenes, detail=detail, saturation=saturation, brightness=brightness)))


def _grid(images: Tensor, heads: list[str], rows: list[str]) -> Image.Image:
    cell = 64 * _ZOOM
    height, width = cell + _TEXT_HEIGHT, cell + 2
    sheet = Image.new("RGB", (width * len(heads), height * len(rows) + _TEXT_HEIGHT), "white")
    draw = ImageDraw.Draw(sheet)
    for column, head in enumerate(heads):
        draw.text((column * width + 2, 2), head, fill="black")
        for row, text in enumerate(rows):
            pixels = (images[row, column].permute(1, 2, 0) * 255).round().byte().numpy()
            corner = (column * width, _TEXT_HEIGHT + row * height)
            sheet.paste(Image.fromarray(pixels).resize((cell, cell), Image.Resampling.NEAREST), corner)
            if column == 0:
                draw.text((2, corner[1] + cell + 1), text, fill="black")
    return sheet


if __name__ == "__main__":
    main()
