"""Several rewards on one batch: their values, and one gradient of their weighted sum per input spec.

One gradient per input spec, not per reward, crosses between processes: a further model of an input spec that is in use
adds nothing to the traffic.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor

from srpo_ray.rewards.base import Reward, RewardError
from srpo_ray.rewards.input_spec import InputSpec
from srpo_ray.rewards.query import TextQuery


@dataclass(frozen=True)
class ScoredBatch:
    """Scores of B images, and where the weighted sum of them rises."""

    values: dict[str, Tensor]
    """Per reward `[B]`, unweighted."""
    gradients: dict[InputSpec, Tensor]
    """Per input_spec `[B, 3, size, size]`: gradient of each image's own weighted sum."""


@dataclass(frozen=True)
class RewardCall:
    """Names the reward, the prompts and the replica in whatever goes wrong inside a `with` block."""

    reward: str
    queries: Sequence[TextQuery]
    replica: str

    def __enter__(self) -> "RewardCall":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Only errors: an interrupt or exit passes through, and so does one that is named already.
        if isinstance(error, Exception) and not isinstance(error, RewardError):
            raise self.failure(f"{type(error).__name__}: {error}") from error

    def failure(self, reason: str) -> RewardError:
        """The error to raise when no single sample is to blame."""
        return RewardError(self.reward, [str(query) for query in self.queries], self.replica, reason)

    def require_score(self, score: Tensor) -> None:
        """Raise unless `score` holds one finite number per query."""
        if score.shape != (len(self.queries),):
            raise self.failure(f"expected scores of shape [{len(self.queries)}], received {list(score.shape)}")
        self.require_finite("score", score)

    def require_finite(self, what: str, tensor: Tensor) -> None:
        """Raise, naming the first bad sample, unless every number of `tensor` is finite."""
        numbers = tensor.detach().reshape(len(self.queries), -1)
        # A finite sum proves that every term is, at a fiftieth of the cost; the reverse is not so.
        if torch.isfinite(numbers.sum()):
            return
        bad = (~torch.isfinite(numbers).all(dim=1)).nonzero()
        if len(bad):
            first = int(bad[0])
            raise RewardError(
                self.reward,
                [str(self.queries[first])],
                self.replica,
                f"the {what} of sample {first} is NaN or infinite ({len(bad)} of {len(self.queries)} are)",
            )


def score_and_gradient(
    rewards: Mapping[str, Reward],
    weights: Mapping[str, float],
    images: Mapping[InputSpec, Tensor],
    queries: Sequence[TextQuery],
    *,
    micro_batch_size: int,
    replica: str,
) -> ScoredBatch:
    """One forward and one vector-Jacobian product per reward and micro-batch.

    Args:
        rewards: The models by name; those without a weight are left alone.
        weights: Factor of each reward in the sum that the gradient is of.
        images: Per input_spec `[B, 3, size, size]`, for the input_spec of every weighted reward.
        queries: B text queries.
        micro_batch_size: Most images in one forward pass.
        replica: Where this runs, for messages.

    Raises:
        RewardError: If a reward raises, gives a wrong shape, or a value or gradient that is not finite.
    """
    values: dict[str, list[Tensor]] = {name: [] for name in weights}
    input_specs = {InputSpec.of(rewards[name]) for name in weights}
    gradients: dict[InputSpec, list[Tensor]] = {input_spec: [] for input_spec in sorted(input_specs)}
    for rows in _micro_batches(len(queries), micro_batch_size):
        sums: dict[InputSpec, Tensor] = {}
        for name, weight in weights.items():
            reward, input_spec = rewards[name], InputSpec.of(rewards[name])
            pixels = images[input_spec][rows].detach().requires_grad_()
            with RewardCall(name, queries[rows], replica) as call, torch.enable_grad(), _full_precision(pixels):
                score = reward.score(pixels, queries[rows])
                call.require_score(score)
                # Images are scored one by one, so the gradient of the sum holds each image's own gradient.
                (gradient,) = torch.autograd.grad((weight * score).sum(), pixels)
                call.require_finite("gradient", gradient)
            values[name].append(score.detach().to(pixels))
            sums[input_spec] = sums[input_spec] + gradient if input_spec in sums else gradient
        for input_spec, gradient in sums.items():
            gradients[input_spec].append(gradient)
    return ScoredBatch(
        {name: torch.cat(parts) for name, parts in values.items()},
        # Most calls are one micro-batch; its gradient is megabytes that need no copy.
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
    """Values without gradient, for evaluation and for algorithms that need none.

    Args:
        rewards: The models by name.
        names: The models to ask.
        images: Per input_spec `[B, 3, size, size]`, for the input_spec of every named reward.
        queries: B text queries.
        micro_batch_size: Most images in one forward pass.
        replica: Where this runs, for messages.

    Returns:
        Per name `[B]`, unweighted.

    Raises:
        RewardError: If a reward raises, gives a wrong shape, or a value that is not finite.
    """
    values: dict[str, list[Tensor]] = {name: [] for name in names}
    for rows in _micro_batches(len(queries), micro_batch_size):
        for name in names:
            reward = rewards[name]
            pixels = images[InputSpec.of(reward)][rows]
            with RewardCall(name, queries[rows], replica) as call, torch.no_grad(), _full_precision(pixels):
                score = reward.score(pixels, queries[rows])
                call.require_score(score)
            values[name].append(score.to(pixels))
    return {name: torch.cat(parts) for name, parts in values.items()}


def _full_precision(pixels: Tensor) -> torch.autocast:
    """In a trainer's process the score may be asked for under its autocast, which a replica does not have."""
    return torch.autocast(pixels.device.type, enabled=False)


def _micro_batches(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))
