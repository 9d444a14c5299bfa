"""Rewards that follow a script, for tests of whole runs."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from srpo_ray.models.flux import FluxPolicy
from srpo_ray.rewards.query import TextQuery


class Brightness:
    """Mean of the image times the sum of the query's weights; may fail once, when `marker` does not exist yet."""

    image_size = 32
    image_gradient = True

    def __init__(
        self,
        name: str = "brightness",
        fault: str = "none",
        after: int = 0,
        marker: str = "",
        seconds: float = 0.0,
        slow: str = "",
    ) -> None:
        self.name = name
        self.seconds = seconds
        self.slow = Path(slow)
        self.fault = fault
        self.after = after
        self.marker = Path(marker)
        self.calls = 0

    def score(self, images: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        """Score, or fail at the call after the first `after` ones that carry gradient."""
        self.calls += images.requires_grad
        # While the file `slow` is there, an update takes as long as it takes other things to happen.
        time.sleep(3.0 if self.slow.name and self.slow.exists() else self.seconds)
        score = images.mean(dim=(1, 2, 3)) * torch.tensor([sum(w for w, _ in query.terms) for query in queries])
        if self.fault == "none" or self.calls <= self.after or (self.marker.name and self.marker.exists()):
            return score
        if self.marker.name:
            self.marker.touch()
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "raise":
            raise RuntimeError("the lamp is broken")
        return score * float("nan")


class FullMemory(Brightness):
    """Leaves its process with a model that finds no memory any more, and notes that it was loaded there."""

    def __init__(self, marker: str) -> None:
        super().__init__(marker=marker)
        with self.marker.open("a") as file:
            file.write("loaded\n")
        setattr(FluxPolicy, "velocity", _find_no_memory)  # noqa: B010, not a method of its type


_velocity = FluxPolicy.velocity


def _find_no_memory(policy: FluxPolicy, tokens: Tensor, *arguments: Any) -> Tensor:
    if tokens.device.type == "meta":
        # The plan that is made then needs no memory.
        return _velocity(policy, tokens, *arguments)
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has a total capacity ...")


class Evaluate:
    """A held-out model whose opinion is known before: one decision per call, the last for all later ones."""

    image_size = 32
    image_gradient = False

    def __init__(self, name: str = "evaluator", decisions: str = "") -> None:
        self.name = name
        self.decisions = [float(decision) for decision in decisions.split()]

    def score(self, images: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        """The decision, a little higher for each image."""
        decision = self.decisions.pop(0) if len(self.decisions) > 1 else self.decisions[0]
        return decision + torch.arange(len(images)) / 100
