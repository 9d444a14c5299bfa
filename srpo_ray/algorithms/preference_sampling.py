"""Images that an update samples for preferences: groups for each prompt, or opponents of real images."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from srpo_ray.algorithms.base import Algorithm, Batch
from srpo_ray.algorithms.comparisons import submit_ranked
from srpo_ray.algorithms.moves import KnownScores, ScoresOfRows
from srpo_ray.config.algorithms.preference import PreferenceConfig
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.rewards.base import PendingScore, Scores
from srpo_ray.rewards.query import TextQuery


class States(NamedTuple):
    """States of B rollouts, with the velocities of the rollouts there."""

    tokens: Tensor
    """`[B, draws, N, C]`."""
    velocities: Tensor
    """`[B, draws, N, C]`."""

    def of(self, rows: slice | Tensor) -> "States":
        """Return the states of some rollouts."""
        return States(self.tokens[rows], self.velocities[rows])


@dataclass(frozen=True)
class SampledImages:
    """Sampled images of a micro-batch."""

    clean: Tensor
    """Clean tokens `[B, N, C]`; the images of a prompt are consecutive rows."""
    group: int
    """Images per prompt."""
    pending: PendingScore | None = None
    """Rewards of the images; None if no reward ranks them."""
    states: States | None = None
    """States of the rollouts; None if the points are clean images mixed with noise."""

    @property
    def scores(self) -> Scores:
        """Rewards of the images; waits for them."""
        assert self.pending is not None, "images of source online are scored"
        return self.pending.result()

    def answered(self) -> "SampledImages":
        """Wait for the rewards, and return the images without the request, which keeps their pixels."""
        return self if self.pending is None else replace(self, pending=KnownScores(self.scores))

    def __getitem__(self, rows: slice) -> "SampledImages":
        pending = None if self.pending is None else ScoresOfRows(self.pending, rows)
        return SampledImages(self.clean[rows], self.group, pending, self.states and self.states.of(rows))


def sample_images(algorithm: Algorithm[PreferenceConfig], batch: Batch, sigmas: Tensor | None) -> SampledImages:
    """Sample an image for each row, and submit it to the rewards if they rank images.

    Args:
        algorithm: Algorithm whose policy has the weights that sample.
        batch: Micro-batch with whole groups.
        sigmas: Sigmas of the sampler at which states are kept `[B, draws]`; None keeps no states.
    """
    config, noise = algorithm.config, algorithm.noise(batch, scope="per_image")
    parts = rows_of_parts(len(noise), config.images_per_prompt, config.rollout_parts)
    found = _joined(
        [
            _sample_part(algorithm, noise[rows], batch.conditioning[rows], None if sigmas is None else sigmas[rows])
            for rows in parts
        ],
        parts,
    )
    if found.pixels is None:
        return SampledImages(found.clean, config.images_per_prompt, None, found.states)
    queries = [TextQuery.plain(prompt) for prompt in batch.prompts]
    pending = submit_ranked(
        algorithm.rewards, found.pixels, queries, batch.draws.samples, compare=config.compares_images
    )
    return SampledImages(found.clean, config.images_per_prompt, pending, found.states)


def rows_of_parts(rows: int, group: int, parts: int) -> list[slice] | list[Tensor]:
    """Divide the images of a micro-batch into parts, each with equally many images of every prompt.

    Args:
        rows: Images of the micro-batch; those of a prompt are consecutive.
        group: Images per prompt.
        parts: Number of parts, a divisor of `group`.

    Returns:
        Rows of each part; a slice if it is the whole, which copies nothing.
    """
    if parts == 1:
        return [slice(None)]
    return [part.flatten() for part in torch.arange(rows).view(-1, group).chunk(parts, dim=1)]


class _Part(NamedTuple):
    """Images that are sampled at once."""

    clean: Tensor
    states: States | None
    pixels: Tensor | None
    """Decoded images; None if no reward ranks them."""


def _sample_part(
    algorithm: Algorithm[PreferenceConfig], noise: Tensor, conditioning: Conditioning, sigmas: Tensor | None
) -> _Part:
    """Sample and decode images at once."""
    config, policy, states = algorithm.config, algorithm.policy, None
    if sigmas is None:
        clean = algorithm.sample(noise, conditioning, algorithm.sigmas)
    else:
        path = policy.trajectory(noise, conditioning, algorithm.sigmas, config.guidance_scale)
        # A view would keep the whole path in memory.
        clean, states = path[-1].clone(), states_at(path, algorithm.sigmas, sigmas)
    return _Part(clean, states, policy.decode_for_training(clean) if config.source == "online" else None)


def _joined(found: list[_Part], parts: list[slice] | list[Tensor]) -> _Part:
    """Join parts in the order of the rows of the micro-batch."""
    if len(found) == 1:
        return found[0]
    order = torch.cat([rows for rows in parts if isinstance(rows, Tensor)]).argsort()
    states = [part.states for part in found if part.states is not None]
    pixels = [part.pixels for part in found if part.pixels is not None]
    return _Part(
        torch.cat([part.clean for part in found])[order],
        States(*(torch.cat(kept)[order] for kept in zip(*states, strict=True))) if states else None,
        torch.cat(pixels)[order] if pixels else None,
    )


def states_at(path: Tensor, grid: Tensor, sigmas: Tensor) -> States:
    """Select states of Euler steps, and compute the velocities of the steps that leave them.

    Args:
        path: Tokens at all sigmas of the grid `[n + 1, B, N, C]`.
        grid: Sigmas `[n + 1]` of the sampler, from 1 to 0.
        sigmas: Sigmas of the grid, before its end, at which states are wanted, `[B, draws]`.
    """
    steps = (grid[:-1] - sigmas[:, :, None]).abs().argmin(dim=2)
    rows = torch.arange(len(sigmas))[:, None]
    here, there = path[steps, rows], path[steps + 1, rows]
    lengths = (grid[steps + 1] - grid[steps]).to(here)[:, :, None, None]
    return States(here, (there - here) / lengths)
