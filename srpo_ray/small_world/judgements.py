"""Judgements of the small world's annotators: which of two images of one content is preferred, and how surely."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from srpo_ray.small_world.build.annotators import UNBIASED, Taste, biased

TASTES: dict[str, Taste] = {"preference": biased(1.5), "held_out": UNBIASED}
"""Annotators by the reward model of the small world that was trained on their judgements. `preference` likes saturated
images with dark corners, `held_out` detail and natural colours."""
_MINORITY_SEED, _DRAW_SEED = 6004, 6005


@dataclass(frozen=True)
class Judgements:
    """Judgements of the two images of each content."""

    winner: NDArray[np.int64]
    """Index of the preferred image, 0 or 1, `[count]`."""
    confidence: NDArray[np.float64]
    """Weights of the judgements in [0, 1], `[count]`."""
    kept: list[int]
    """Contents whose judgements are used."""
    notes: list[str]
    """Notes for the user."""


def judge(
    utilities: Callable[[Taste], NDArray[np.float32]], options: Mapping[str, str], reversed_: NDArray[np.bool_]
) -> Judgements:
    """Judge the two images of each content.

    Args:
        utilities: Function from an annotator to its utility of both images of each content, `[count, 2]`.
        options: `taste` is the annotator; the other one judges each content with probability `minority`. Each prefers
            the image of the higher utility, or with a `temperature` T above 0 draws one: the better image has the
            probability 1 / (1 + exp(-difference of the utilities / T)). Contents whose utilities differ by less than
            `min_gap` are left out. `confidence` is `full`, or follows from the difference (`utility`).
        reversed_: Contents whose judgement is reversed, `[count]`.
    """
    count, temperature, least = len(reversed_), float(options["temperature"]), float(options["min_gap"])
    other_taste = next(name for name in TASTES if name != options["taste"])
    minority = np.random.default_rng(_MINORITY_SEED).random(count) < float(options["minority"])
    own, other = (utilities(TASTES[name]) for name in (options["taste"], other_taste))
    values = np.where(minority[:, None], other, own).astype(float)
    gap = np.abs(values[:, 1] - values[:, 0])
    worse = np.zeros(count, dtype=bool)
    if temperature:
        # A tiny temperature makes no mistake: exp(-inf) is 0.
        with np.errstate(over="ignore"):
            worse = np.random.default_rng(_DRAW_SEED).random(count) > 1 / (1 + np.exp(-gap / temperature))
    # The probability p that the better image is preferred is the logistic function of the gap: 2 p - 1 is this.
    sure = np.tanh(gap / 2) if options["confidence"] == "utility" else np.ones(count)
    best = (values[:, 1] > values[:, 0]).astype(int)
    used = gap >= least
    found = {
        "noise": ("judgements reversed", reversed_),
        "minority": (f"judgements of the annotator {other_taste}", minority),
        "temperature": ("judgements drawn for the image of the lower utility", worse),
    }
    notes = [
        f"{int((rows & used).sum())} of {used.sum()} {text}"
        for name, (text, rows) in found.items()
        if float(options[name])
    ]
    if least:
        notes.append(f"{count - used.sum()} of {count} pairs left out, whose utilities differ by less than {least:g}")
    return Judgements(np.where(reversed_ != worse, 1 - best, best), sure, np.flatnonzero(used).tolist(), notes)
