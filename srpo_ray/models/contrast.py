"""Contrast of a tuned model with another: Reinforcement Learning Guidance (arXiv 2508.21016) and its relatives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srpo_ray.config.contrast_weight import BASE as BASE
from srpo_ray.config.contrast_weight import TUNED as TUNED
from srpo_ray.config.contrast_weight import ContrastWeight as ContrastWeight

Network = Callable[..., tuple[Tensor]]
"""Function that maps a transformer's keywords to `(velocity,)`."""


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
    text: float = 1.0
    """Scale s of the prompt in the other model's text: its features are `empty + s (prompt - empty)`. 1 is the prompt,
    0 the empty prompt (Diffusion-NPO, arXiv 2505.11245), -0.5 the text of CHATS (arXiv 2502.12579)."""

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
