"""Realistic images of the small world: rendered scenes in the realistic style, captioned without a style word."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from srpo_ray.small_world.prompts import WORDS, caption
from srpo_ray.small_world.renderer import render
from srpo_ray.small_world.scenes import sample_scenes
from srpo_ray.small_world.shapes import SIZE

COUNT = 1000
_SEED = 4000
_DRAWN = 40_000


class RealisticScenes:
    """1000 images of seen contents with detail and natural colours, rendered on access."""

    note = None

    def __init__(self) -> None:
        scenes = sample_scenes(_DRAWN, _SEED)
        self._scenes = scenes[np.flatnonzero(scenes.word == WORDS.index("realistic"))[:COUNT]]
        self.captions = [caption(content) for content in self._scenes.contents]
        self.identities = [f"realistic {_SEED} {_DRAWN} {index}" for index in range(len(self.captions))]

    def load(self, indices: Sequence[int], resolution: int | tuple[int, int]) -> Tensor:
        """Render images `[B, 3, 64, 64]` in [0, 1].

        Raises:
            ValueError: For another resolution.
        """
        if resolution != SIZE:
            raise ValueError(
                f"data.images: expected model.resolution {SIZE} with small_world:realistic, got {resolution}; set it"
                f" to {SIZE}, or choose a folder of images"
            )
        return torch.from_numpy(render(self._scenes[np.asarray(indices)]))

    def sizes(self, indices: Sequence[int]) -> Tensor:
        """Return the heights and widths of images `[B, 2]`."""
        return torch.full((len(indices), 2), SIZE)
