"""Several rewards on one batch: their values, and the gradient of their weighted sum per input spec.

Replicas send one gradient per input spec, not per reward: a further model with the same input spec adds no traffic.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srpo_ray.rewards.base import Reward
from srpo_ray.rewards.call import RewardCall
from srpo_ray.rewards.input_spec import InputSpec
from srpo_ray.rewards.query import TextQuery


@dataclass(frozen=True)
class ScoredBatch:
    """Scores of B images, and the gradient of their weighted sum."""

    values: dict[str, Tensor]
    """Per reward `[B]`, unweighted."""
    gradients: dict[InputSpec, Tensor]
    """Per input spec `[B, 3, size, size]`: gradient of each image's weighted sum."""


def score_and_gradient(
    rewards: Mapping[str, Reward],
    weights: Mapping[str, float],
    images: Mapping[InputSpec, Tensor],
    queries: Sequence[TextQuery],
    *,
    micro_batch_size: int,
    replica: str,
) -> ScoredBatch:
    """Compute one forward pass and one vector-Jacobian product per reward and micro-batch.

    Args:
        rewards: Models by name; those without a weight are not called.
        weights: Factor of each reward in the sum whose gradient is computed.
        images: Per input spec `[B, 3, size, size]`, for the input spec of every weighted reward.
        queries: B text queries.
        micro_batch_size: Maximum number of images in one forward pass.
        replica: Name of the replica, for messages.

    Raises:
        RewardError: If a reward raises, or returns a wrong shape, or a value or gradient is not finite.
    """
    values: dict[str, list[Tensor]] = {name: [] for name in weights}
    input_specs = {InputSpec.of(rewards[name]) for name in weights}
    gradients: dict[InputSpec, list[Tensor]] = {input_spec: [] for input_spec in sorted(input_specs)}
    for rows in _micro_batches(len(queries), micro_batch_size):
        sums: dict[InputSpec, Tensor] = {}
        for name, weight in weights.items():
            reward, input_spec = rewards[name], InputSpec.of(rewards[name])
            pixels = images[input_spec][rows].detach().requires_grad_()
            with RewardCall(name, queries[rows], replica) as call, torch.enable_grad(), full_precision(pixels):
                score = reward.score(pixels, queries[rows])
                call.require_score(score)
                # Each score depends on one image only, so the gradient of the sum contains each image's own gradient.
                (gradient,) = torch.autograd.grad((weight * score).sum(), pixels)
                call.require_finite("gradient", gradient)
            values[name].append(score.detach().to(pixels))
            sums[input_spec] = sums[input_spec] + gradient if input_spec in sums else gradient
        for input_spec, gradient in sums.items():
            gradients[input_spec].append(gradient)
    return ScoredBatch(
        {name: torch.cat(parts) for name, parts in values.items()},
        # Most calls are one micro-batch, whose gradient of megabytes needs no copy.
        {input_spec: parts[0] if len(parts) == 1 else torch.cat(parts) for input_spec, parts in gradients.items()},
    )


def score_only(
    rewards: Mapping[str, Reward],
    names: Sequence[str],
    images: Mapping[InputSpec, Tensor],
    queries: Sequence[TextQuery],
    *,
    micro_batch_size: int,
    replica: str,
) -> dict[str, Tensor]:
    """Compute values without gradient, for evaluation and for algorithms that need none.

    Args:
        rewards: Models by name.
        names: Models that score.
        images: Per input spec `[B, 3, size, size]`, for the input spec of every named reward.
        queries: B text queries.
        micro_batch_size: Maximum number of images in one forward pass.
        replica: Name of the replica, for messages.

    Returns:
        Per name `[B]`, unweighted.

    Raises:
        RewardError: If a reward raises, or returns a wrong shape or a value that is not finite.
    """
    values: dict[str, list[Tensor]] = {name: [] for name in names}
    for rows in _micro_batches(len(queries), micro_batch_size):
        for name in names:
            reward = rewards[name]
            pixels = images[InputSpec.of(reward)][rows]
            with RewardCall(name, queries[rows], replica) as call, torch.no_grad(), full_precision(pixels):
                score = reward.score(pixels, queries[rows])
                call.require_score(score)
            values[name].append(score.to(pixels))
    return {name: torch.cat(parts) for name, parts in values.items()}


def full_precision(pixels: Tensor) -> torch.autocast:
    """Disable autocast: a trainer may call a reward under its own autocast, which a replica does not have."""
    return torch.autocast(pixels.device.type, enabled=False)


def _micro_batches(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))
