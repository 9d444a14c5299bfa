"""An algorithm that uses what none of the registered ones does: pairs of images, other roles, two steps, a state."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from srpo_ray.algorithms.advantages import rows_of, table_of_update
from srpo_ray.algorithms.base import Algorithm, Batch, Gather, Loss, LossOutput, Phase
from srpo_ray.config.algorithms.base import AlgorithmSection, Calls, Needs
from srpo_ray.flow import mix


class EverythingConfig(AlgorithmSection):
    """A preference loss on pairs, with an anchor to older weights and a moving baseline."""

    code: ClassVar[str] = "tests.helpers.algorithms.everything:Everything"
    needs: ClassVar[Needs] = Needs(reward="score", images="optional", roles=frozenset({"reference", "old"}))
    type: Literal["everything"] = "everything"

    def calls(self, num_steps: int) -> Calls:
        """Each phase and each loss asks for the images one after the other."""
        return Calls(4.0, chained=2, mean_chained=2.0, phases=2, optimizer_steps=2, decodes=False)


@dataclass(frozen=True)
class Points:
    """Noised images of both sides, and what other weights answer there."""

    tokens: Tensor
    """`[K, B, N, 64]`."""
    sigma: Tensor
    """`[B]`."""
    targets: Tensor
    """Velocities that would be right, `[K, B, N, 64]`."""
    reference: Tensor
    """Velocities of role `reference`, `[K, B, N, 64]`."""
    old: Tensor | None = None
    baseline: Tensor | None = None
    """Moving mean of the reference's errors, `[B]`."""


def _errors(velocities: Tensor, targets: Tensor) -> Tensor:
    return (velocities - targets).pow(2).mean(dim=(-1, -2))


class Everything(Algorithm[EverythingConfig]):
    """Preference for the image with the higher label."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.state = {"baseline": torch.zeros(1, dtype=torch.float64), "updates": torch.zeros(1)}

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The reference, then the old weights."""
        return (Phase("reference", lambda batch, _: self.collect(batch)), Phase("old", self._ask_old))

    def collect(self, batch: Batch) -> Points:
        """Noise both images alike and ask the reference."""
        assert batch.images is not None
        sigma = batch.draws.uniform("sigma", 0.2, 0.8).float()
        noise = self.noise(batch, "pair_noise")
        clean = batch.images.transpose(0, 1)
        tokens = torch.stack([mix(side, noise, sigma) for side in clean])
        return Points(tokens, sigma, noise - clean, self._velocities(batch, tokens, sigma))

    def _ask_old(self, batch: Batch, points: Points) -> Points:
        return replace(points, old=self._velocities(batch, points.tokens, points.sigma))

    def _velocities(self, batch: Batch, tokens: Tensor, sigma: Tensor) -> Tensor:
        scale = self.rollout.guidance_scale
        return torch.stack([self.policy.velocity(side, sigma, batch.conditioning, scale) for side in tokens])

    def settle(self, rounds: Sequence[tuple[Batch, Points]], gather: Gather) -> list[Points]:
        """Move the baseline by the errors of the whole update."""
        errors = [_errors(points.reference, points.targets).mean(dim=0) for _, points in rounds]
        table = table_of_update([batch for batch, _ in rounds], errors, gather)
        self.state["baseline"] = 0.5 * self.state["baseline"] + 0.5 * table.mean()
        self.state["updates"] = self.state["updates"] + 1
        moved = table - self.state["baseline"]
        return [replace(points, baseline=rows_of(moved, batch)) for batch, points in rounds]

    def losses(self, batch: Batch, collected: Points, part: int = 0) -> Iterator[Loss]:
        """Yield one loss, of which the second part has a weaker preference."""
        found = self._velocities(batch, collected.tokens, collected.sigma)
        yield partial(self._loss, batch, collected, found, 1.0 / (part + 1))

    def _loss(self, batch: Batch, points: Points, found: Tensor, strength: float) -> LossOutput:
        assert batch.labels is not None
        assert points.old is not None
        assert points.baseline is not None
        gains = _errors(points.reference, points.targets) - _errors(found, points.targets)
        side = (batch.labels[:, 0] - batch.labels[:, 1]).sign()
        margin = side * (gains[0] - gains[1]) + points.baseline.to(found)
        anchor = (found - points.old).pow(2).mean(dim=(0, 2, 3))
        losses = -functional.logsigmoid(strength * margin) + 0.1 * anchor
        metrics = {"loss/pair": losses.detach(), "preference/margin": margin.detach()}
        return LossOutput(losses.mean(), metrics)
