"""Sampler of a group's images along the paths of a plan; a state that several images share is computed once."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from srpo_ray.algorithms.base import Batch
from srpo_ray.algorithms.moves import Move
from srpo_ray.config.algorithms.plan import Tail, Walk
from srpo_ray.config.algorithms.transition import TransitionSection
from srpo_ray.flow import dpm_solver_step, euler_step, generator, log_density, stochastic_step

if TYPE_CHECKING:
    from srpo_ray.models.policy import FlowPolicy


@dataclass
class GroupSampler:
    """Sampler of one micro-batch."""

    policy: "FlowPolicy"
    sigmas: Tensor
    """Sigma grid of the sampler `[num_steps + 1]`, float64, from 1 to 0."""
    guidance_scale: float
    transition: TransitionSection
    batch: Batch
    images: int
    """Images of a prompt in the micro-batch, which are consecutive rows."""
    keeps_means: bool = False
    """True to keep the means of random steps, for losses that need them."""

    def __post_init__(self) -> None:
        self._sources: dict[tuple[int, int], torch.Generator] = {}

    @torch.no_grad()
    def run(self, noise: Tensor, walks: Sequence[Walk]) -> tuple[list[Move], list[list[Tensor]]]:
        """Sample all paths. To the start of a later path, the images of a prompt share one path from their noise.

        Args:
            noise: Initial noise of the S images, `[S, N, 64]`; equal where the first path's images share their state.
            walks: Paths, in the order of their starts.

        Returns:
            Random steps, and for each path the clean tokens `[S, N, 64]` of each tail.
        """
        moves: list[Move] = []
        results: list[list[Tensor]] = []
        block = self._block(walks[0], 0)
        # A view of some rows would keep the noise of all images in memory.
        tokens, point, velocity = noise if block == 1 else noise[::block].clone(), 0, None
        for index, walk in enumerate(walks):
            while point < walk.start:
                velocity = self.velocity(tokens, point) if velocity is None else velocity
                tokens, point, velocity = self._euler(tokens, velocity, point, point + 1), point + 1, None
            velocity = self.velocity(tokens, point) if velocity is None else velocity
            results.append(self._walk(tokens, velocity, walk, index, moves))
            if walk.leads:
                last = moves[-1]
                tokens, point, velocity = self._drawn_image(last.after, last.step), last.step + 1, None
        return moves, results

    def _drawn_image(self, tokens: Tensor, point: int) -> Tensor:
        """Select the state of one image of each prompt, `[S, N, 64]` to `[S / images, N, 64]`."""
        drawn = self.batch.draws.integers("parent", 0, self.images - 1, point)[:: self.images]
        return tokens[[prompt * self.images + child for prompt, child in enumerate(drawn)]]

    def velocity(self, tokens: Tensor, point: int) -> Tensor:
        """Compute the velocity of states `[U, N, 64]` at a grid point."""
        rows = self.batch.conditioning[:: len(self.batch.prompts) // len(tokens)]
        return self.policy.velocity(tokens, self._sigma(tokens, point), rows, self.guidance_scale)

    def _walk(self, tokens: Tensor, velocity: Tensor, walk: Walk, scores: int, moves: list[Move]) -> list[Tensor]:
        """Follow one path from its start, append its random steps, and return the result of each tail."""
        for point in range(walk.start, walk.tail_start):
            velocity = self.velocity(tokens, point) if point > walk.start else velocity
            if point in walk.random:
                moves.append(self._random(tokens, velocity, walk, point, scores))
                tokens = moves[-1].after
            else:
                tokens = self._euler(tokens, velocity, point, point + 1)
        return [self._tail(tokens, walk.tail_start, tail) for tail in walk.tails]

    def _random(self, tokens: Tensor, velocity: Tensor, walk: Walk, point: int, scores: int) -> Move:
        here, there = self._sigma(tokens, point), self._sigma(tokens, point + 1)
        mean, std = random_step(self.transition, tokens, velocity, here, there)
        sharing, block = walk.sharing[point + 1], self._block(walk, point + 1)
        children = self._block(walk, point) // block
        wide_mean, wide_std = repeated(mean, children), repeated(std, children)
        after = wide_mean + wide_std * self.policy.noise(self._noise_of_states(sharing, block))
        density = log_density(after, wide_mean, wide_std)
        return Move(point, tokens, after, density, mean if self.keeps_means else None, sharing, scores)

    def _noise_of_states(self, sharing: int, block: int) -> list[torch.Generator]:
        """Return the generator of each state after a step: that of the first image of the group that has the state.

        A generator gives one noise per step, so a state has the same noise in every micro-batch that contains it.
        """
        draws = self.batch.draws
        owners = [(sample, child // sharing * sharing) for sample, child in draws.images[::block]]
        for owner in owners:
            if owner not in self._sources:
                self._sources[owner] = generator(draws.seed, "sde", draws.update, *owner)
        return [self._sources[owner] for owner in owners]

    def _tail(self, tokens: Tensor, first: int, tail: Tail) -> Tensor:
        """Make the steps without noise to the image. The last one has none, as noise would stay in the scored image."""
        points = tail.points(first, len(self.sigmas) - 1)
        before: tuple[Tensor, float] | None = None
        for here, there in pairwise(points):
            velocity = self.velocity(tokens, here)
            if tail.solver == "euler":
                tokens = self._euler(tokens, velocity, here, there)
                continue
            sigma = self.sigmas[here].item()
            clean = tokens - sigma * velocity
            tokens = dpm_solver_step(tokens, clean, sigma, self.sigmas[there].item(), before)
            before = (clean, sigma)
        return tokens

    def _euler(self, tokens: Tensor, velocity: Tensor, here: int, there: int) -> Tensor:
        return euler_step(tokens, velocity, self._sigma(tokens, here), self._sigma(tokens, there))

    def _sigma(self, tokens: Tensor, point: int) -> Tensor:
        return self.sigmas[point].expand(len(tokens))

    def _block(self, walk: Walk, point: int) -> int:
        """Count the images of the micro-batch that share a state at a grid point."""
        return min(walk.sharing[point], self.images)


def random_step(
    transition: TransitionSection, tokens: Tensor, velocity: Tensor, here: Tensor, there: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute mean and standard deviation of random steps from sigmas `here` to `there`, see `stochastic_step`."""
    step, noise, strength = transition.step, transition.noise, transition.strength
    return stochastic_step(tokens, velocity, here, there, step=step, noise=noise, strength=strength)


def repeated(states: Tensor, children: int) -> Tensor:
    """Repeat each row for its children, `[U, ...]` to `[U * children, ...]`."""
    return states if children == 1 else states.repeat_interleave(children, dim=0)
