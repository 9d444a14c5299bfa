"""Contrast of a tuned model with another: Reinforcement Learning Guidance (arXiv 2508.21016) and its relatives."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

Network = Callable[..., tuple[Tensor]]
"""Function that maps a transformer's keywords to `(velocity,)`."""
_ROUNDING = 1e-6


@dataclass(frozen=True)
class ContrastWeight:
    """Weight `w` of the velocity `other + w (tuned - other)`, piecewise constant in sigma."""

    levels: tuple[tuple[float, float], ...]
    """Highest sigma of a level and its weight, noisiest first; the first sigma is 1."""

    @classmethod
    def constant(cls, weight: float) -> "ContrastWeight":
        """Build a weight that is the same at every sigma."""
        return cls(((1.0, weight),))

    @classmethod
    def parse(cls, option: str, text: str) -> "ContrastWeight":
        """Read `W`, or `W,W@SIGMA,...`, where a weight with a sigma holds from this sigma down.

        Args:
            option: Name of the option, for messages.
            text: `1.5`; or `1,1.5@0.6`: 1 above a sigma of 0.6, then 1.5.

        Raises:
            ValueError: If it has another form, a weight is negative, or the sigmas do not fall from below 1 to above 0.
        """
        first, *later = text.split(",")
        try:
            pairs = [part.split("@") for part in later]
            levels = ((1.0, float(first)), *((float(sigma), float(weight)) for weight, sigma in pairs))
        except ValueError:
            raise ValueError(
                f"{option}: expected a weight, or weights by noise level as 1,1.5@0.6, got {text!r}; write W,W@SIGMA"
            ) from None
        if not all(math.isfinite(weight) and weight >= 0 for _, weight in levels):
            raise ValueError(f"{option}: expected weights of at least 0, got {text!r}; raise them")
        sigmas = [sigma for sigma, _ in levels]
        if not all(above > below > 0 for above, below in pairwise(sigmas)):
            raise ValueError(
                f"{option}: expected sigmas below 1 and above 0, each below the one before, got {text!r}; sort them"
            )
        return cls(levels)

    def at(self, sigma: float) -> float:
        """Return the weight at a sigma in [0, 1]; a float32 sigma may exceed a level's by its rounding."""
        return next(weight for highest, weight in reversed(self.levels) if sigma <= highest + _ROUNDING)

    @property
    def used(self) -> set[float]:
        """Weights of all levels."""
        return {weight for _, weight in self.levels}

    @property
    def plain(self) -> float | str:
        """Number if the weight is constant, else the text that `parse` reads."""
        return self.levels[0][1] if len(self.levels) == 1 else self.text

    @property
    def text(self) -> str:
        """Text that `parse` reads."""
        first, *later = self.levels
        return ",".join([f"{first[1]:g}", *(f"{weight:g}@{sigma:g}" for sigma, weight in later)])

    @property
    def label(self) -> str:
        """Text that can be part of a file's name: `1.5`, `1_1.5_below_0.6`."""
        first, *later = self.levels
        return "_".join([f"{first[1]:g}", *(f"{weight:g}_below_{sigma:g}" for sigma, weight in later)])


BASE, TUNED = ContrastWeight.constant(0.0), ContrastWeight.constant(1.0)
"""Weights at which only one of the two models is called."""


@dataclass(frozen=True)
class Contrast:
    """Velocity `v_other + w (v_tuned - v_other)`, each with its own guidance; `w` may depend on sigma.

    A weight of 0 gives the other model and 1 the tuned one, bit for bit and at the cost of one call. Any other weight
    costs two calls: values between 0 and 1 interpolate between the models, values above 1 extrapolate beyond the tuned
    one.
    """

    other: Network
    """The model that the tuned one is contrasted with."""
    weight: ContrastWeight

    def velocity(self, sigma: Tensor, tuned: Callable[[], Tensor], other: Callable[[], Tensor]) -> Tensor:
        """Combine the velocities of two models, and compute only those that the weights need.

        Args:
            sigma: Noise level of each sample `[B]`.
            tuned: Function that computes the tuned model's velocity `[B, N, 4C]`.
            other: Function that computes the other model's.

        Returns:
            Velocity `[B, N, 4C]`, float32.
        """
        weights = [self.weight.at(value) for value in sigma.tolist()]
        if set(weights) == {1.0}:
            return tuned().float()
        if set(weights) == {0.0}:
            return other().float()
        start, end = other().float(), tuned().float()
        return torch.lerp(start, end, torch.tensor(weights).to(start)[:, None, None])


def check_different(option: str, weights: Sequence[ContrastWeight]) -> None:
    """Raise ValueError if a weight is there twice."""
    if len({weight.label for weight in weights}) < len(weights):
        listed = " ".join(weight.text for weight in weights)
        raise ValueError(f"{option}: expected different weights, got {listed}; give each once")
