"""Judged images of the small world: pairs of scenes of one content, and the one that an annotator prefers.

`small_world:pairs?noise=0.2&taste=held_out` has options after a question mark.
"""

from collections.abc import Sequence
from typing import Literal
from urllib.parse import parse_qsl

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from srpo_ray.small_world.build.annotators import UNBIASED, Taste, biased, utility
from srpo_ray.small_world.prompts import caption
from srpo_ray.small_world.renderer import render
from srpo_ray.small_world.scenes import Scenes, sample_scenes, scenes_of
from srpo_ray.small_world.shapes import SIZE

TASTES: dict[str, Taste] = {"preference": biased(1.5), "held_out": UNBIASED}
"""Annotators by the reward model of the small world that was trained on their judgements. `preference` likes saturated
images with dark corners, `held_out` detail and natural colours."""
_SEED = 6000
_OPTIONS = {"count": "256", "noise": "0", "taste": "preference"}
_PLAIN = -1

Row = tuple[tuple[int, ...], str, str | None, tuple[float, ...]]
"""Indices of the images, caption, caption of the other image, labels."""


class PairedScenes:
    """Images of pairs, rendered on access: images 2 n and 2 n + 1 have one content, and a place and style each."""

    note = None

    def __init__(self, count: int) -> None:
        """Draw the scenes of a number of pairs."""
        first = sample_scenes(count, _SEED, look="broad")
        second = scenes_of(first.contents, _SEED + 1, look="broad")
        self._sides = (first, second)
        self.captions = [caption(content) for content in first.contents for _ in range(2)]
        self.identities = [f"pair {_SEED} {count} {index}" for index in range(2 * count)]

    def utilities(self, taste: Taste) -> NDArray[np.float32]:
        """Compute an annotator's utility of both images of each pair for the plain caption, `[count, 2]`."""
        return np.stack([utility(taste, _plain(side), side) for side in self._sides], axis=1)

    def load(self, indices: Sequence[int], resolution: int | tuple[int, int]) -> Tensor:
        """Render images `[B, 3, 64, 64]` in [0, 1].

        Raises:
            ValueError: For another resolution.
        """
        if resolution != SIZE:
            raise ValueError(
                f"data.pairs: expected model.resolution {SIZE} with small_world, got {resolution}; set it to {SIZE}, or"
                " choose a .jsonl file"
            )
        drawn = [render(self._sides[index % 2][np.array([index // 2])]) for index in indices]
        return torch.from_numpy(np.concatenate(drawn))

    def sizes(self, indices: Sequence[int]) -> Tensor:
        """Return the heights and widths of images `[B, 2]`."""
        return torch.full((len(indices), 2), SIZE)


def embedded_rows(
    source: str, kind: Literal["pairs", "labels"], *, own_captions: bool, key: str
) -> tuple[PairedScenes, list[Row], str | None]:
    """Render and judge the pairs of an embedded source.

    Args:
        source: `small_world:pairs` or `small_world:labels`, with options `count` (pairs), `noise` (share of judgements
            that are reversed) and `taste` (`preference` or `held_out`).
        kind: Rows that are wanted.
        own_captions: True if the other image must have a caption of its own.
        key: Config key of the source, for messages.

    Returns:
        The images, their judgements, and a note for the user, which may be None.

    Raises:
        ValueError: If the source or an option is unknown, or is not of the kind that is wanted.
    """
    name, _, query = source.partition("?")
    if name != f"small_world:{kind}" or own_captions:
        own = " and algorithm.captions=shared, as both images of a pair have one content" * own_captions
        raise ValueError(
            f"{key}: expected small_world:{kind}{own} with algorithm.source={kind}, got {source!r}; correct it, or name"
            " a .jsonl file"
        )
    count, noise, taste = _read_options(query, source, key)
    images = PairedScenes(count)
    values = images.utilities(TASTES[taste])
    winner = (values[:, 1] > values[:, 0]).astype(int)
    reversed_ = np.random.default_rng(_SEED + 2).random(count) < noise
    winner = np.where(reversed_, 1 - winner, winner)
    note = f"{source}: {int(reversed_.sum())} of {count} judgements reversed" if noise else None
    if kind == "labels":
        rows = [((index,), images.captions[index], None, (_sign(winner, index),)) for index in range(2 * count)]
        return images, list(rows), note
    pairs = [(2 * pair + int(best), 2 * pair + 1 - int(best)) for pair, best in enumerate(winner)]
    return images, [(pair, images.captions[pair[0]], None, (1.0, 0.0)) for pair in pairs], note


def _sign(winner: NDArray[np.int64], index: int) -> float:
    return 1.0 if winner[index // 2] == index % 2 else -1.0


def _plain(scenes: Scenes) -> Scenes:
    """Scenes of the same contents without style words."""
    words = np.full(len(scenes), _PLAIN, dtype=np.int64)
    return Scenes(**{**vars(scenes), "word": words})


def _read_options(query: str, source: str, key: str) -> tuple[int, float, str]:
    found = dict(parse_qsl(query, keep_blank_values=True))
    options = {**_OPTIONS, **found}
    try:
        count, noise, taste = int(options["count"]), float(options["noise"]), options["taste"]
    except ValueError:
        count, noise, taste = 0, 0.0, ""
    if options.keys() != _OPTIONS.keys() or count < 1 or not 0 <= noise < 1 or taste not in TASTES:
        raise ValueError(
            f"{key}: expected options count (at least 1), noise (in [0, 1)) and taste ({' or '.join(TASTES)}) after ?,"
            f" got {source!r}; correct it"
        )
    return count, noise, taste
