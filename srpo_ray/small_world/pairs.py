"""Judged images of the small world: scenes that an annotator prefers or likes, and scenes with a wrong caption.

`small_world:pairs?noise=0.2&taste=held_out` has options after a question mark.
"""

from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from srpo_ray.config.algorithms.base import Judged
from srpo_ray.small_world.build.annotators import Taste, utility
from srpo_ray.small_world.judgements import TASTES, Judgements, judge
from srpo_ray.small_world.prompts import caption
from srpo_ray.small_world.renderer import render
from srpo_ray.small_world.scenes import Scenes, sample_scenes, scenes_of
from srpo_ray.small_world.shapes import SIZE
from srpo_ray.small_world.wrong_captions import PARTS, Part, wrong_captions

_SEED = 6000
_JUDGED_OPTIONS = {
    "count": "256",
    "noise": "0",
    "taste": "preference",
    "confidence": "full",
    "minority": "0",
    "temperature": "0",
    "min_gap": "0",
}
_OPTIONS: dict[Judged, dict[str, str]] = {
    "pairs": _JUDGED_OPTIONS,
    "labels": _JUDGED_OPTIONS,
    "captions": {"count": "256", "noise": "0", "part": "any"},
}
_CHOICES = {"taste": tuple(TASTES), "confidence": ("full", "utility"), "part": ("any", *PARTS)}
_PLAIN = -1

Row = tuple[tuple[int, ...], str, str | None, tuple[float, ...]]
"""Indices of the images, caption, caption of the other image or wrong caption, labels."""


class SmallWorldScenes:
    """Images of contents, rendered on access: K images in a row have one content, and a place and style each."""

    note = None

    def __init__(self, count: int, sides: int) -> None:
        """Draw the scenes of a number of contents.

        Args:
            count: Number of contents, at least 1.
            sides: Scenes K of each content, 1 or 2.
        """
        first = sample_scenes(count, _SEED, look="broad")
        self._sides = (first, scenes_of(first.contents, _SEED + 1, look="broad"))[:sides]
        self.contents = first.contents
        self.captions = [caption(content) for content in first.contents for _ in range(sides)]
        name = "pair" if sides > 1 else "scene"
        self.identities = [f"{name} {_SEED} {count} {index}" for index in range(sides * count)]

    def utilities(self, taste: Taste) -> NDArray[np.float32]:
        """Compute an annotator's utility of the images of each content for the plain caption, `[count, K]`."""
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
        sides = len(self._sides)
        drawn = [render(self._sides[index % sides][np.array([index // sides])]) for index in indices]
        return torch.from_numpy(np.concatenate(drawn))

    def sizes(self, indices: Sequence[int]) -> Tensor:
        """Return the heights and widths of images `[B, 2]`."""
        return torch.full((len(indices), 2), SIZE)


def embedded_rows(
    source: str, kind: Judged, *, own_captions: bool, key: str
) -> tuple[SmallWorldScenes, list[Row], str | None]:
    """Render and judge the scenes of an embedded source.

    Args:
        source: `small_world:pairs`, `small_world:labels` or `small_world:captions`, with options: `count` (contents)
            and `noise` (probability that a judgement is reversed); for pairs and labels those of `judge`; for captions
            `part` (`any`, or what the exchanged word names).
        kind: Rows that are wanted.
        own_captions: True if the other image of a pair must have a caption of its own; it is a wrong one.
        key: Config key of the source, for messages.

    Returns:
        The images, their judgements, and a note for the user, which may be None.

    Raises:
        ValueError: If the source or an option is unknown, or is not of the kind that is wanted, or leaves no row.
    """
    name, _, query = source.partition("?")
    if name != f"small_world:{kind}":
        raise ValueError(
            f"{key}: expected small_world:{kind} with algorithm.source={kind}, got {source!r}; correct it, or name a"
            " .jsonl file"
        )
    options = _read_options(query, kind, source, key)
    count, noise = int(options["count"]), float(options["noise"])
    images = SmallWorldScenes(count, 1 if kind == "captions" else 2)
    reversed_ = np.random.default_rng(_SEED + 2).random(count) < noise
    note = f"{source}: {int(reversed_.sum())} of {count} judgements reversed" if noise else None
    if kind == "captions":
        return images, _caption_rows(images, options["part"], reversed_), note
    judged = judge(images.utilities, options, reversed_)
    if not judged.kept:
        raise ValueError(
            f"{key}: expected pairs whose utilities differ by at least min_gap, got none with {source!r}; lower min_gap"
        )
    note = f"{source}: {'; '.join(judged.notes)}" if judged.notes else None
    return images, _label_rows(images, judged) if kind == "labels" else _pair_rows(images, judged, own_captions), note


def _pair_rows(images: SmallWorldScenes, judged: Judgements, own_captions: bool) -> list[Row]:
    """Rows of the preferred and the other image of each content."""
    others = wrong_captions(images.contents, _SEED + 3) if own_captions else [None] * len(judged.winner)
    rows: list[Row] = []
    for content in judged.kept:
        best, sure = int(judged.winner[content]), float(judged.confidence[content])
        pair = (2 * content + best, 2 * content + 1 - best)
        rows.append((pair, images.captions[pair[0]], others[content], ((1 + sure) / 2, (1 - sure) / 2)))
    return rows


def _label_rows(images: SmallWorldScenes, judged: Judgements) -> list[Row]:
    """Rows of both images of each content: the preferred one is liked."""
    rows: list[Row] = []
    for content in judged.kept:
        for side in (0, 1):
            sign = 1.0 if judged.winner[content] == side else -1.0
            index = 2 * content + side
            rows.append(((index,), images.captions[index], None, (sign * float(judged.confidence[content]),)))
    return rows


def _caption_rows(images: SmallWorldScenes, part: str, reversed_: NDArray[np.bool_]) -> list[Row]:
    """Rows of images with their caption and a wrong one, exchanged where `reversed_` is true."""
    parts: list[Part] = [each for each in PARTS if part == "any" or each == part]
    both = zip(images.captions, wrong_captions(images.contents, _SEED + 3, parts), reversed_, strict=True)
    return [
        ((index,), wrong if swapped else right, right if swapped else wrong, (1.0,))
        for index, (right, wrong, swapped) in enumerate(both)
    ]


def _plain(scenes: Scenes) -> Scenes:
    """Scenes of the same contents without style words."""
    words = np.full(len(scenes), _PLAIN, dtype=np.int64)
    return Scenes(**{**vars(scenes), "word": words})


def _read_options(query: str, kind: Judged, source: str, key: str) -> Mapping[str, str]:
    """Read the options after the question mark; those that are absent have their defaults."""
    defaults = _OPTIONS[kind]
    options = {**defaults, **dict(parse_qsl(query, keep_blank_values=True))}
    named = {name: choices for name, choices in _CHOICES.items() if name in defaults}
    try:
        shares = [float(options[name]) for name in ("noise", "minority") if name in options]
        amounts = [float(options[name]) for name in ("temperature", "min_gap") if name in options]
        usable = int(options["count"]) >= 1 and all(0 <= share < 1 for share in shares)
        usable = usable and all(0 <= amount < float("inf") for amount in amounts)
    except ValueError:
        usable = False
    if not usable or options.keys() != defaults.keys() or any(options[name] not in named[name] for name in named):
        ranges = "noise and minority (in [0, 1)), temperature and min_gap (at least 0)"
        parts = [ranges if "minority" in defaults else "noise (in [0, 1))"]
        parts += [f"{name} ({' or '.join(choices)})" for name, choices in named.items()]
        raise ValueError(
            f"{key}: expected options count (at least 1), {', '.join(parts)} after ?, got {source!r}; correct it"
        )
    return options
