"""AlignProp (arXiv 2310.03739): back-propagate the reward through the sampler, cut at a random step.

The transformer's outputs before the cut and the initial noise are constants, so the steps before the cut are sampled
without gradient.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from srpo_ray.algorithms.base import Algorithm, Batch, Loss
from srpo_ray.algorithms.reward_loss import reward_loss
from srpo_ray.config.algorithms.align_prop import AlignPropConfig
from srpo_ray.flow import Draws


@dataclass(frozen=True)
class CutChain:
    """Sampler chain up to its cut."""

    tokens: Tensor
    """Tokens at the cut, `[B, N, 64]`."""
    cut: int
    """Number of steps before the cut, all without gradient."""

    def __getitem__(self, rows: slice) -> "CutChain":
        return CutChain(self.tokens[rows], self.cut)


class AlignProp(Algorithm[AlignPropConfig]):
    """Reward back-propagation through a randomly truncated chain."""

    def collect(self, batch: Batch) -> CutChain:
        """Sample up to the update's cut, without gradient."""
        noise = self.noise(batch)
        cut = self._cut(batch.draws)
        grid = self.sigmas[: cut + 1]
        return CutChain(self.sample(noise, batch.conditioning, grid), cut)

    def reached(self, collected: CutChain) -> tuple[Tensor, Tensor]:
        """Return the tokens at the cut."""
        return collected.tokens, self.sigmas[collected.cut].expand(len(collected.tokens))

    def losses(self, batch: Batch, collected: CutChain, part: int = 0) -> Iterator[Loss]:
        """Yield the single loss of the batch."""
        grid = self.sigmas[collected.cut :]
        clean = self.policy.integrate(collected.tokens, batch.conditioning, grid, self.rollout.guidance_scale)
        gradient_steps = torch.full((len(clean),), float(len(grid) - 1))
        metrics = {"step/gradient_steps": gradient_steps}
        queries = self.queries(batch)
        yield reward_loss(self.rewards, self.policy.decode_for_training(clean), queries, "sample", metrics=metrics)

    def _cut(self, draws: Draws) -> int:
        """Draw the first step with gradient, once for all samples and workers: it determines which calls have one."""
        chances = torch.tensor(self.config.cut_probabilities(self.rollout.num_steps), dtype=torch.float64)
        return int(torch.multinomial(chances, 1, generator=draws.of_update("cut")))
