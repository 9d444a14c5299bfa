"""Inverted points of preferences: states on the way from a clean image to noise, and the velocity back to the image."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from srpo_ray.algorithms.forward_process import Point
from srpo_ray.config.algorithms.preference_inversion import Inversion
from srpo_ray.flow import euler_step, per_sample

VelocityAt = Callable[[Tensor, Tensor], Tensor]
"""Velocity at tokens `[B, N, C]` and sigmas `[B]`."""


def inversion_step(tokens: Tensor, velocity: VelocityAt, here: Tensor, there: Tensor, *, averaged: bool) -> Tensor:
    """Compute one step towards noise.

    Args:
        tokens: States at `here`, `[B, N, C]`.
        velocity: Velocity of the model.
        here: Sigma of the states, `[B]`.
        there: Sigma of the result, `[B]`, above `here`.
        averaged: True for the mean of the velocities at the state and at the result of a plain step (SmPO, arXiv
            2506.02698, after ReNoise), a second call.
    """
    first = velocity(tokens, here)
    ahead = euler_step(tokens, first, here, there)
    return euler_step(tokens, (first + velocity(ahead, there)) / 2, here, there) if averaged else ahead


def walk(
    clean: Tensor, sigmas: Tensor, velocity: VelocityAt, noise: Callable[[int], Tensor], section: Inversion
) -> Iterator[Tensor]:
    """Yield the states of clean images at all sigmas after the first.

    Args:
        clean: Clean tokens, `[B, N, C]`.
        sigmas: Grid from 0 to 1, `[steps + 1]` float64.
        velocity: Velocity of the model.
        noise: Standard normal tokens of a step, by its index from 0.
        section: Options.
    """
    tokens = clean
    for step, (here, there) in enumerate(pairwise(sigmas)):
        before, after = here.expand(len(clean)), there.expand(len(clean))
        tokens = inversion_step(tokens, velocity, before, after, averaged=section.averaged)
        if section.noise:
            tokens = tokens + section.noise * float((there - here).sqrt()) * noise(step).to(tokens)
        yield tokens


def drawn_states(wanted: Tensor, sigmas: Tensor, states: Iterator[Tensor]) -> Tensor:
    """Choose a state of each image for each draw.

    All states are walked, so that every worker makes the same calls whatever is drawn.

    Args:
        wanted: Sigmas of the draws, `[draws, B]`, all among `sigmas`.
        sigmas: Grid from 0 to 1, `[steps + 1]`.
        states: States `[B, N, C]` at all sigmas after the first.

    Returns:
        `[B, draws, N, C]`.
    """
    found: Tensor | None = None
    for sigma, state in zip(sigmas[1:], states, strict=True):
        whole = state[:, None].expand(-1, len(wanted), -1, -1)
        chosen = (wanted == sigma).T[..., None, None].to(state.device)
        found = torch.where(chosen, whole, torch.zeros_like(whole) if found is None else found)
    assert found is not None, "an inversion has at least one step"
    return found


def inverted_point(clean: Tensor, state: Tensor, sigma: Tensor) -> Point:
    """Return a state of an inversion as a point, whose target is the mean velocity of the way from the clean image.

    With `u = (x - x0) / s`, a velocity v at x predicts the clean image `x - s v`, so its matching error is
    `|x - s v - x0|^2 / s^2`.

    Args:
        clean: Clean tokens x0, `[B, N, C]`.
        state: State x, of the same shape.
        sigma: Sigma s of the state, `[B]`, above 0.
    """
    return Point(state, sigma, (state - clean) / per_sample(sigma, state))
