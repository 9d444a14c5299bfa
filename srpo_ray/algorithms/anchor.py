"""Anchors of any algorithm: a loss that keeps the policy near the velocities of other weights, or near real images.

The algorithm's sampled tokens are renoised to a random sigma. The velocities of the other weights there are computed
ahead, in phases; one more call with gradient compares the policy with them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from srpo_ray.algorithms.base import Algorithm, Batch, Gather, Loss, LossOutput, Phase
from srpo_ray.config.algorithms.base import Role
from srpo_ray.flow import renoise


def anchor_losses(
    velocity: Tensor, velocities: Mapping[Role, Tensor], weights: Mapping[Role, float]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the weighted sum of the squared distances to the velocities of other weights.

    Args:
        velocity: Velocity of the policy, `[B, N, C]` with gradient.
        velocities: Role -> velocity `[B, N, C]`, of the roles in `weights` at least.
        weights: Role -> weight; roles without an anchor are absent.

    Returns:
        Loss `[B]`, and the distance to each role, `anchor/<role>` `[B]`, without its weight.
    """
    distances = {role: (velocity - velocities[role]).pow(2).mean(dim=(1, 2)) for role in weights}
    loss = velocity.new_zeros(len(velocity))
    for role, weight in weights.items():
        loss = loss + weight * distances[role]
    return loss, {f"anchor/{role}": values.detach() for role, values in distances.items()}


@dataclass(frozen=True)
class Anchored:
    """Collected value of an algorithm, with the velocities of other weights at a point of each image."""

    inner: Any
    """Collected value of the algorithm."""
    own: Tensor | None = None
    """Clean tokens `[B, N, C]` that the anchor sampled; None if it uses the algorithm's rollout."""
    velocities: Mapping[Role, Tensor] = field(default_factory=dict)
    """Role -> velocity at the point, `[B, N, C]`."""

    @property
    def clean(self) -> Tensor:
        """Clean tokens of the algorithm's rollout, for its reuse."""
        return self.inner.clean

    def __getitem__(self, rows: slice) -> "Anchored":
        own = None if self.own is None else self.own[rows]
        return Anchored(self.inner[rows], own, {role: values[rows] for role, values in self.velocities.items()})


class AnchoredAlgorithm(Algorithm[Any]):
    """Algorithm with one more loss, its anchor."""

    def __init__(self, inner: Algorithm[Any]) -> None:
        """Add the anchor of section `algorithm.anchor` to an algorithm."""
        super().__init__(inner.config, inner.rollout, inner.policy, inner.rewards, inner.grid, inner.words)
        self.inner = inner
        self.state = inner.state

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Phases of the algorithm, a rollout if it keeps none, then one phase for each role."""
        first, *others = self.inner.phases
        own = () if self.config.keeps_rollout else (Phase("policy", self._sample),)
        asking = (Phase(role, partial(self._ask, role)) for role in self.config.anchor.weights)
        return (
            Phase(first.role, lambda batch, before: Anchored(first.run(batch, before))),
            *(Phase(each.role, partial(self._continue, each.run)) for each in others),
            *own,
            *asking,
        )

    def collect(self, batch: Batch) -> Any:
        """Collect the inputs of the algorithm's losses."""
        return self.inner.collect(batch)

    def _continue(self, run: Callable[[Batch, Any], Any], batch: Batch, value: Anchored) -> Anchored:
        return replace(value, inner=run(batch, value.inner))

    def _sample(self, batch: Batch, value: Anchored) -> Anchored:
        noise = self.noise(batch, "anchor_rollout", scope="per_image")
        return replace(value, own=self.sample(noise, batch.conditioning, self.sigmas))

    def _ask(self, role: Role, batch: Batch, value: Anchored) -> Anchored:
        tokens, sigma, _ = self._point(batch, value)
        velocity = self._velocity(batch, tokens, sigma)
        return replace(value, velocities={**value.velocities, role: velocity})

    def _point(self, batch: Batch, value: Anchored) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens `[B, N, C]` at a random sigma, the sigma `[B]`, and the noise `[B, N, C]` added.

        Tokens that the algorithm left at a higher sigma stay there.
        """
        reached = self.inner.reached(value.inner) if value.own is None else (value.own, torch.zeros(len(value.own)))
        assert reached is not None, "`keeps_rollout` is true only for algorithms that define `reached`"
        tokens, sigma = reached
        if self.config.anchor.data and batch.images is not None:
            # An algorithm may have left a real image at a noisy point, whose noise the target would lack.
            given = list(batch.image_rows)
            tokens, sigma = tokens.clone(), sigma.clone()
            tokens[given], sigma[given] = batch.images[given, 0].to(tokens), 0.0
        low, high = self.config.anchor.sigmas
        share = batch.draws.uniform("anchor_sigma", 0.0, 1.0, scope="per_image").to(sigma.device)
        start = sigma.double().clamp(min=low)
        drawn = torch.maximum(start + share * (high - start), sigma.double())
        noise = self.noise(batch, "anchor", scope="per_image")
        return renoise(tokens, noise, sigma, drawn), drawn, noise

    def _velocity(self, batch: Batch, tokens: Tensor, sigma: Tensor) -> Tensor:
        guidance = self.calls.guidance_scale
        scale = self.rollout.guidance_scale if guidance is None else guidance
        return self.policy.velocity(tokens, sigma, batch.conditioning, scale)

    def settle(self, rounds: Sequence[tuple[Batch, Anchored]], gather: Gather) -> list[Anchored]:
        """Complete the collected values of the algorithm."""
        settled = self.inner.settle([(batch, value.inner) for batch, value in rounds], gather)
        return [replace(value, inner=inner) for (_, value), inner in zip(rounds, settled, strict=True)]

    def losses(self, batch: Batch, collected: Anchored, part: int = 0) -> Iterator[Loss]:
        """Yield the losses of the algorithm, then that of the anchor."""
        yield from self.inner.losses(batch, collected.inner, part)
        tokens, sigma, noise = self._point(batch, collected)
        yield partial(self._loss, batch, collected, noise, self._velocity(batch, tokens, sigma))

    def _loss(self, batch: Batch, collected: Anchored, noise: Tensor, velocity: Tensor) -> LossOutput:
        anchor = self.config.anchor
        losses, metrics = anchor_losses(velocity, collected.velocities, anchor.weights)
        if anchor.data:
            assert batch.images is not None, "the config requires real images"
            given = torch.zeros(len(velocity), device=velocity.device, dtype=velocity.dtype)
            given[list(batch.image_rows)] = 1
            error = (velocity - (noise - batch.images[:, 0])).pow(2).mean(dim=(1, 2))
            losses = losses + anchor.data * given * error
            metrics["anchor/data"] = (given * error).detach()
        return LossOutput(losses.mean(), {**metrics, "loss/anchor": losses.detach()})

    def old_kept(self, update: int) -> float:
        """Return the decay of the algorithm's old weights."""
        return self.inner.old_kept(update)
