"""DRaFT (arXiv 2309.17400): back-propagate the reward through the last steps of the sampler.

DRaFT-K goes through the last K steps. DRaFT-LV lowers the variance of K = 1: it noises the finished picture to the
last noise level again, several times with fresh noise, and takes the last step from each of them too.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from srpo_ray.algorithms.base import Batch, PendingLoss, PlainAlgorithm
from srpo_ray.algorithms.reward_loss import reward_loss
from srpo_ray.config.algorithms.draft import DRaFTConfig
from srpo_ray.config.model import RolloutConfig
from srpo_ray.flow import SigmaGrid, generator, mix, numeric_grid
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.rewards.base import RewardScorer


class DRaFT(PlainAlgorithm[DRaFTConfig]):
    """DRaFT-K, and DRaFT-LV where there are renoisings."""

    def __init__(
        self,
        config: DRaFTConfig,
        rollout: RolloutConfig,
        policy: FlowPolicy,
        rewards: RewardScorer,
        seed: int,
        grid: SigmaGrid = numeric_grid,
    ) -> None:
        """See `PlainAlgorithm`."""
        super().__init__(config, rollout, policy, rewards, seed, grid)
        self.early, self.late = self.sigmas[: -config.num_steps], self.sigmas[-config.num_steps - 1 :]

    def collect(self, batch: Batch) -> Tensor:
        """Sample tokens `[B, N, 64]` up to the steps that carry gradient."""
        noise = self.noise(batch)
        return self.policy.rollout(noise, batch.conditioning, self.early, self.rollout.guidance_scale)

    def losses(self, batch: Batch, collected: Tensor) -> Iterator[PendingLoss]:
        """Yield the loss of the sampled pictures, then one per renoising; the update is their mean."""
        share = 1 / (1 + self.config.renoisings)
        clean = self._finish(batch, collected)
        yield reward_loss(self.rewards, batch, self.policy.decode(clean), "sample", share=share)
        for index in range(self.config.renoisings):
            renoised = self._finish(batch, self._renoise(batch, clean.detach(), index))
            yield reward_loss(self.rewards, batch, self.policy.decode(renoised), "renoised", share=share)

    def _finish(self, batch: Batch, tokens: Tensor) -> Tensor:
        """The last steps of the sampler, with gradient."""
        return self.policy.integrate(tokens, batch.conditioning, self.late, self.rollout.guidance_scale)

    def _renoise(self, batch: Batch, clean: Tensor, index: int) -> Tensor:
        """Finished tokens at the last noise level again, with a noise of their own."""
        sources = [generator(self.seed, "renoise", batch.step, sample, index) for sample in batch.samples]
        return mix(clean, self.policy.noise(sources), torch.full((len(clean),), self.late[0].item()))
