"""Tastes of simulated people: the true utility of a small-world image, from its measured pixels, without a network."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from srpo_ray.small_world.truth import style

CONTENT_WEIGHT = 4.0

Wish = tuple[float, float]
"""Weight of a style axis, and the value of the axis that the person likes best, on the scale of `truth.style`."""


@dataclass(frozen=True)
class Taste:
    """Taste of one person: a wish for every style axis."""

    detail: Wish
    saturation: Wish
    brightness: Wish
    vignette: Wish


# Four kinds of people, named after the axis that matters most to them, and two people of each kind. Weights and wishes
# were drawn once: weight 1.6 to 2.4 and an extreme wish on the main axis, 0.2 to 0.8 and a medium wish on the others,
# 0.3 to 1 and a wish below 0.5 for the vignette, which no word names.
TASTES: dict[Literal["validation", "test"], dict[str, Taste]] = {
    "validation": {
        "detail": Taste(detail=(1.9, 0.82), saturation=(0.5, 0.48), brightness=(0.4, 0.55), vignette=(0.5, 0.32)),
        "natural": Taste(detail=(0.2, 0.44), saturation=(1.9, 0.19), brightness=(0.6, 0.44), vignette=(0.9, 0.48)),
        "light": Taste(detail=(0.4, 0.62), saturation=(0.7, 0.55), brightness=(1.6, 0.84), vignette=(0.7, 0.15)),
        "vivid": Taste(detail=(0.3, 0.44), saturation=(1.8, 0.91), brightness=(0.4, 0.48), vignette=(0.8, 0.47)),
    },
    "test": {
        "detail": Taste(detail=(1.8, 0.71), saturation=(0.8, 0.60), brightness=(0.7, 0.51), vignette=(0.5, 0.08)),
        "natural": Taste(detail=(0.4, 0.49), saturation=(1.7, 0.32), brightness=(0.6, 0.35), vignette=(0.9, 0.25)),
        "light": Taste(detail=(0.8, 0.49), saturation=(0.7, 0.49), brightness=(2.1, 0.85), vignette=(0.3, 0.07)),
        "vivid": Taste(detail=(0.3, 0.47), saturation=(1.9, 0.86), brightness=(0.6, 0.47), vignette=(0.5, 0.26)),
    },
}
"""People whose utility may choose settings (`validation`), and others of the same kinds for results (`test`)."""


def utility(taste: Taste, metrics: dict[str, Tensor]) -> Tensor:
    """Compute the utility [B] of images: `4 * content_accuracy - sum(weight * |style - wish|)`, at most 4.

    Args:
        taste: wishes of the person.
        metrics: result of `truth.measure`, with values [B].
    """
    measured = style(metrics)
    wishes = {field.name: getattr(taste, field.name) for field in fields(taste)}
    distance = [weight * (measured[axis] - wish).abs() for axis, (weight, wish) in wishes.items()]
    return CONTENT_WEIGHT * metrics["content_accuracy"] - torch.stack(distance).sum(0)


def utilities(metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """Compute the utility of every person, such as `utility/test/detail`, and the mean of each group.

    Args:
        metrics: result of `truth.measure`, with values [B].
    """
    found: dict[str, Tensor] = {}
    for group, people in TASTES.items():
        values = {name: utility(taste, metrics) for name, taste in people.items()}
        found |= {f"utility/{group}/{name}": value for name, value in values.items()}
        found[f"utility/{group}/mean"] = torch.stack(list(values.values())).mean(0)
    return found
