"""DRaFT (arXiv 2309.17400): back-propagate the reward through the last steps of the sampler.

DRaFT-K goes through the last K steps. DRaFT-LV lowers the variance of K = 1: it noises the finished image to the
last noise level again, several times with fresh noise, and takes the last step from each of them too.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from srpo_ray.algorithms.base import Algorithm, Batch, Loss
from srpo_ray.algorithms.reward_loss import plain_queries, reward_loss
from srpo_ray.config.algorithms.draft import DRaFTConfig
from srpo_ray.flow import mix


class DRaFT(Algorithm[DRaFTConfig]):
    """DRaFT-K, and DRaFT-LV where there are renoisings."""

    def collect(self, batch: Batch) -> Tensor:
        """Sample tokens `[B, N, 64]` up to the steps that carry gradient."""
        noise = self.noise(batch)
        early = self.sigmas[: -self.config.num_steps]
        return self.policy.rollout(noise, batch.conditioning, early, self.rollout.guidance_scale)

    def losses(self, batch: Batch, collected: Tensor, part: int = 0) -> Iterator[Loss]:
        """Yield the loss of the sampled images, then one per renoising; the update is their mean."""
        share, queries = 1 / (1 + self.config.renoisings), plain_queries(batch.prompts)
        clean = self._finish(batch, collected)
        yield reward_loss(self.rewards, self.policy.decode(clean), queries, "sample", share=share)
        for index in range(self.config.renoisings):
            renoised = self._finish(batch, self._renoise(batch, clean.detach(), index))
            yield reward_loss(self.rewards, self.policy.decode(renoised), queries, "renoised", share=share)

    def _finish(self, batch: Batch, tokens: Tensor) -> Tensor:
        """The last steps of the sampler, with gradient."""
        return self.policy.integrate(tokens, batch.conditioning, self._late, self.rollout.guidance_scale)

    def _renoise(self, batch: Batch, clean: Tensor, index: int) -> Tensor:
        """Finished tokens at the last noise level again, with a noise of their own."""
        return mix(clean, self.noise(batch, "renoise", index), torch.full((len(clean),), self._late[0].item()))

    @property
    def _late(self) -> Tensor:
        """Sigmas of the steps that carry gradient."""
        return self.sigmas[-self.config.num_steps - 1 :]
