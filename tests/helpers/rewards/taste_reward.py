"""A reward that depends on the version of a package, `taste`, which tests install in two versions."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import taste  # pyright: ignore[reportMissingImports]
import torch
from torch import Tensor

from srpo_ray.rewards.query import TextQuery


class TasteReward:
    """`version * sum of weights * mean(sin(image))`.

    Text `once:FILE` kills the process unless the file exists, and writes the file first.
    """

    name = ""
    image_gradient = True

    def __init__(self, image_size: int = 4) -> None:
        self.image_size = image_size

    def score(self, images: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        for query in queries:
            order, _, file = query.texts[0].partition(":")
            if order == "once" and not Path(file).exists():
                Path(file).write_text(f"{os.getpid()}")
                os.kill(os.getpid(), signal.SIGKILL)
        weights = torch.tensor([sum(weight for weight, _ in query.terms) for query in queries])
        return taste.VERSION * weights.to(images) * images.sin().mean((1, 2, 3))
