"""A policy and a reward that are linear and in float64, so that losses and gradients can be derived by hand."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from srpo_ray.algorithms import Algorithm, Batch
from srpo_ray.algorithms.base import Gather
from srpo_ray.config.algorithms.roles import Role
from srpo_ray.flow import Draws, generator
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.rewards.base import RewardScorer, Scores
from srpo_ray.rewards.query import Pairs, TextQuery

SHAPE = (2, 3)
ELEMENTS = 6


class AffinePolicy:
    """Velocity is `slope * tokens + offset`, and an image is its clean tokens."""

    def __init__(self) -> None:
        self.slope = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        self.offset = torch.linspace(-1, 1, ELEMENTS, dtype=torch.float64).reshape(SHAPE).requires_grad_()
        self.calls: list[tuple[bool, float, float]] = []
        """Of each call: whether it carried gradient, its first sigma, its guidance scale."""
        self.sigmas: list[Tensor] = []
        """Of each call: the sigma of every sample."""
        self.thresholds: list[float | None] = []
        """Of each rollout: the threshold of its block cache."""

    def noise(self, generators: list[torch.Generator]) -> Tensor:
        return torch.stack([torch.randn(SHAPE, generator=source).double() for source in generators])

    def velocity(self, tokens: Tensor, sigma: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        assert len(tokens) == len(sigma) == len(conditioning)
        self.calls.append((torch.is_grad_enabled(), sigma[0].item(), guidance_scale))
        self.sigmas.append(sigma)
        return self.slope * tokens + self.offset

    def integrate(self, tokens: Tensor, conditioning: Conditioning, sigmas: Tensor, guidance_scale: float) -> Tensor:
        for here, there in pairwise(sigmas.tolist()):
            sigma = torch.full((len(tokens),), here, dtype=torch.float64)
            tokens = tokens + (there - here) * self.velocity(tokens, sigma, conditioning, guidance_scale)
        return tokens

    @torch.no_grad()
    def rollout(
        self,
        noise: Tensor,
        conditioning: Conditioning,
        sigmas: Tensor,
        guidance_scale: float,
        cache_threshold: float | None = None,
    ) -> Tensor:
        self.thresholds.append(cache_threshold)
        return self.integrate(noise, conditioning, sigmas, guidance_scale)

    @torch.no_grad()
    def trajectory(
        self,
        noise: Tensor,
        conditioning: Conditioning,
        sigmas: Tensor,
        guidance_scale: float,
        cache_threshold: float | None = None,
    ) -> Tensor:
        self.thresholds.append(cache_threshold)
        points = [noise]
        for step in range(len(sigmas) - 1):
            points.append(self.integrate(points[-1], conditioning, sigmas[step : step + 2], guidance_scale))
        return torch.stack(points)

    def decode_for_training(self, tokens: Tensor) -> Tensor:
        return tokens


class PromptRewards:
    """Score = mean of the image times the prompt's number, `"prompt 3"` has 4."""

    pairwise: frozenset[str] = frozenset()
    trained = ("linear",)

    def __init__(self) -> None:
        self.submitted: list[tuple[Tensor, Sequence[TextQuery]]] = []

    def submit(self, images: Tensor, queries: Sequence[TextQuery]) -> Any:
        self.submitted.append((images, queries))
        assert all(query == TextQuery.plain(query.texts[0]) for query in queries)
        slopes = torch.tensor([float(query.texts[0].split()[1]) + 1 for query in queries], dtype=torch.float64)
        total = images.mean(dim=(1, 2)) * slopes
        return SimpleNamespace(result=lambda: Scores(total, {"linear": total.detach()}, {"linear": 1.0}))


class UnaskedRewards:
    """Takes images; their scores are 0, all pairs are ties, and no loss is asked for them."""

    pairwise = frozenset({"zero"})
    trained = ("zero",)

    def __init__(self) -> None:
        self.scored = 0
        self.pairs = 0

    def submit(self, images: Tensor, queries: Sequence[TextQuery]) -> Any:
        self.scored += len(images)
        zeros = torch.zeros(len(images))
        return SimpleNamespace(result=lambda: Scores(zeros, {"zero": zeros}, {"zero": 1.0}))

    def compare(self, images: Tensor, queries: Sequence[TextQuery], pairs: Pairs, names: Sequence[str]) -> Any:
        assert list(names) == ["zero"]
        self.pairs += len(pairs)
        return SimpleNamespace(result=lambda: {"zero": torch.full((len(pairs),), 0.5)})


def make_batch(
    size: int = 3,
    update: int = 1,
    seed: int = 7,
    *,
    samples: Sequence[int] | None = None,
    children: Sequence[int] = (0,),
) -> Batch:
    """A micro-batch of some samples, by default the first `size` ones, each with some images."""
    images = [(sample, child) for sample in samples or range(size) for child in children]
    conditioning = Conditioning(torch.zeros(len(images), 1, 1), torch.zeros(len(images), 1))
    draws = Draws(seed, update, tuple(sample for sample, _ in images), 0, tuple(child for _, child in images))
    return Batch(tuple(f"prompt {sample}" for sample, _ in images), conditioning, draws)


def collect_all(
    algorithm: Algorithm[Any],
    batches: Sequence[Batch],
    gather: Gather = lambda value: [value],
    show: Callable[[Role], None] = lambda _: None,
) -> list[Any]:
    """Collected and settled values of one worker with all batches of an update, unless `gather` has other workers.

    `show` gives the policy the weights of a phase's role.
    """
    collected: list[Any] = [None] * len(batches)
    with torch.no_grad():
        for phase in algorithm.phases:
            show(phase.role)
            collected = [phase.run(batch, before) for batch, before in zip(batches, collected, strict=True)]
    return algorithm.settle(list(zip(batches, collected, strict=True)), gather)


class _SentError(Exception):
    """A worker has sent what the others wait for."""


def settle_on_workers(algorithm: Algorithm[Any], workers: Sequence[Sequence[tuple[Batch, Any]]]) -> list[list[Any]]:
    """Settled values of several workers; `workers` has the micro-batches and collected values of each."""
    gathered: list[list[Any]] = []

    def answers(sent: list[Any] | None) -> Any:
        known = iter(gathered)

        def gather(value: Any) -> list[Any]:
            found = next(known, None)
            if found is not None:
                return found
            assert sent is not None, "all workers gather equally often"
            sent.append(value)
            raise _SentError

        return gather

    # Each turn makes one more collective: every worker starts again and stops where the next value is gathered.
    while True:
        sent: list[Any] = []
        for rounds in workers:
            with suppress(_SentError):
                algorithm.settle(rounds, answers(sent))
        if not sent:
            return [algorithm.settle(rounds, answers(None)) for rounds in workers]
        gathered.append(sent)


def as_policy(policy: AffinePolicy) -> FlowPolicy:
    return cast(FlowPolicy, policy)


def as_scorer(rewards: PromptRewards) -> RewardScorer:
    return cast(RewardScorer, rewards)


def grid(num_steps: int, shift: float = 3.0) -> list[float]:
    """The sampler's sigmas by their formula."""
    even = [1 - index / num_steps for index in range(num_steps + 1)]
    return [shift * t / (1 + (shift - 1) * t) for t in even]


def chain_by_hand(policy: AffinePolicy, tokens: Tensor, sigmas: Sequence[float]) -> tuple[Tensor, float, Tensor]:
    """Euler steps of the affine policy, and the derivatives of their end by the product rule.

    Returns:
        The end `[B, 2, 3]`, its derivative in the offset (the same for every element), and in the slope `[B, 2, 3]`.
    """
    slope, offset = policy.slope.item(), policy.offset.detach()
    x, by_offset, by_slope = tokens, 0.0, torch.zeros_like(tokens)
    for here, there in pairwise(sigmas):
        move = there - here
        by_slope = by_slope * (1 + move * slope) + move * x
        by_offset = by_offset * (1 + move * slope) + move
        x = x + move * (slope * x + offset)
    return x, by_offset, by_slope


def points_by_hand(policy: AffinePolicy, tokens: Tensor, sigmas: Sequence[float]) -> list[Tensor]:
    """Tokens at every sigma of a chain of Euler steps, `[B, 2, 3]` each."""
    return [chain_by_hand(policy, tokens, sigmas[: count + 1])[0] for count in range(len(sigmas))]


def trained_steps(policy: AffinePolicy, num_steps: int) -> list[list[int]]:
    """The sampler step of every sample, of each call with gradient."""
    sigmas = torch.tensor(grid(num_steps), dtype=torch.float64)
    calls = zip(policy.calls, policy.sigmas, strict=True)
    return [(sigmas[:, None] - at).abs().argmin(0).tolist() for (gradient, _, _), at in calls if gradient]


def check_gradients(
    policy: AffinePolicy, parts: Sequence[tuple[float, float | Tensor, Tensor]], rtol: float = 1e-6
) -> None:
    """Compare the policy's gradients with those of `-mean over batch of prompt number * mean of image`.

    Args:
        policy: Holds the gradients.
        parts: Per loss its share, and the derivatives of its images in offset (of all images, or `[B]`) and slope.
        rtol: Relative tolerance.
    """
    by_offset, by_slope = 0.0, 0.0
    for share, offset, slope in parts:
        numbers = torch.arange(1, len(slope) + 1, dtype=torch.float64)
        by_offset += -share * ((numbers * offset).mean() / ELEMENTS).item()
        by_slope += -share * (numbers * slope.mean(dim=(1, 2))).mean().item()
    assert policy.offset.grad is not None
    assert policy.slope.grad is not None
    torch.testing.assert_close(
        policy.offset.grad, torch.full(SHAPE, by_offset, dtype=torch.float64), rtol=rtol, atol=1e-12
    )
    torch.testing.assert_close(policy.slope.grad, torch.tensor(by_slope, dtype=torch.float64), rtol=rtol, atol=1e-12)


def drawn_noise(size: int, purpose: str, *address: int, seed: int = 7, update: int = 1) -> Tensor:
    """Noise of every sample at the address `(update, sample, *address)`."""
    sources = [generator(seed, purpose, update, sample, *address) for sample in range(size)]
    return torch.stack([torch.randn(SHAPE, generator=source).double() for source in sources])
