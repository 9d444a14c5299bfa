"""A reward without weights whose behaviour the query's text controls, so that tests can inject faults."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from srpo_ray.rewards.query import TextQuery


class ScriptedReward:
    """`scale * mean(image)`, after the action that the text names.

    Texts: `sleep:SECONDS`, `raise`, `nan`, `nan_gradient`, `log:SECONDS:FILE` (append the pid after the call),
    `slow:COUNT:FILE` (append the pid; the first COUNT calls then take ten minutes) and `end:MESSAGE` (print it and end
    the process). Anything else does nothing.
    """

    name = ""

    def __init__(self, image_size: int = 4, scale: float = 1.0, image_gradient: bool = True) -> None:
        self.image_size = image_size
        self.image_gradient = image_gradient
        self.scale = scale

    def score(self, images: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        values = [self._one(image, query.texts[0]) for image, query in zip(images, queries, strict=True)]
        return self.scale * torch.stack(values)

    def _one(self, image: Tensor, text: str) -> Tensor:
        order, _, argument = text.partition(":")
        value = image.mean()
        if order == "sleep":
            time.sleep(float(argument))
        elif order == "raise":
            raise KeyError("the reward is broken")
        elif order == "nan":
            return value * float("nan")
        elif order == "nan_gradient":
            return value + (image - image.detach()).abs().sum().sqrt()
        elif order == "log":
            self._log(argument)
        elif order == "slow":
            self._slow(argument)
        elif order == "end":
            print(argument, flush=True)
            os._exit(3)
        return value

    def _log(self, argument: str) -> None:
        seconds, _, path = argument.partition(":")
        time.sleep(float(seconds))
        self._append_pid(path)

    def _slow(self, argument: str) -> None:
        count, _, path = argument.partition(":")
        self._append_pid(path)
        if len(Path(path).read_text().split()) <= int(count):
            time.sleep(600)

    def _append_pid(self, path: str) -> None:
        with Path(path).open("a") as file:
            file.write(f"{os.getpid()}\n")


class CurvedReward:
    """A score whose gradient differs in every pixel and with the text: `length(text) * sin(projection)`."""

    name = ""
    image_gradient = True

    def __init__(self, image_size: int, seed: int) -> None:
        self.image_size = image_size
        self.direction = torch.randn(3, image_size, image_size, generator=torch.Generator().manual_seed(seed))

    def score(self, images: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        lengths = torch.tensor([sum(weight * len(text) for weight, text in query.terms) for query in queries])
        return lengths * (images * self.direction).sum(dim=(1, 2, 3)).sin()


class BrighterReward:
    """The mean of the first image wins over the second one; the length of the text divides the margin."""

    name = ""
    image_gradient = False
    image_size = 4
    fit = "pad"

    def score(self, images: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        return images.mean((1, 2, 3))

    def compare(self, first: Tensor, second: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        lengths = torch.tensor([len(query.texts[0]) for query in queries])
        return (0.5 + (first - second).mean((1, 2, 3)) / lengths).clamp(0, 1)


class FailsToLoad:
    """A reward whose constructor raises."""

    def __init__(self) -> None:
        raise OSError("the weights are gone")


class NotAReward:
    """A class without the `Reward` interface."""

    image_size = 4
