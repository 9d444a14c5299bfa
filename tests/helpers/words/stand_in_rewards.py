"""Rewards that mean exactly what they say."""

from collections.abc import Sequence

import torch
from torch import Tensor

from srpo_ray.evaluation.image_statistics import image_statistics
from srpo_ray.rewards.query import TextQuery


class BrightnessReward:
    """Contrast of the image, plus its brightness for `bright. ...` and minus half of it for `dark. ...`."""

    name = ""
    image_gradient = True
    image_size = 32

    def score(self, images: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        found = image_statistics(images)
        words = {"bright": 1.0, "dark": -0.5}
        totals = []
        for index, query in enumerate(queries):
            slopes = [(weight, words.get(text.partition(".")[0], 0.0)) for weight, text in query.terms]
            brightness, contrast = found["brightness"][index], found["contrast"][index]
            totals.append(torch.stack([weight * (contrast + slope * brightness) for weight, slope in slopes]).sum())
        return torch.stack(totals)


class BrokenReward(BrightnessReward):
    """Fails on every image."""

    def score(self, images: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        raise RuntimeError("out of luck")
