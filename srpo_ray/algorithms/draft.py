"""DRaFT (arXiv 2309.17400): back-propagate the reward through the last steps of the sampler.

DRaFT-K back-propagates through the last K steps. DRaFT-LV reduces the variance of K = 1: it renoises the finished image
to the last noise level several times with new noise, and repeats the last step from each.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from srpo_ray.algorithms.base import Algorithm, Batch, Loss
from srpo_ray.algorithms.reward_loss import reward_loss
from srpo_ray.config.algorithms.draft import DRaFTConfig
from srpo_ray.flow import mix


class DRaFT(Algorithm[DRaFTConfig]):
    """DRaFT-K without renoisings, DRaFT-LV with renoisings."""

    def collect(self, batch: Batch) -> Tensor:
        """Sample tokens `[B, N, 64]` up to the steps with gradient."""
        noise = self.noise(batch)
        early = self.sigmas[: -self.config.num_steps]
        return self.sample(noise, batch.conditioning, early)

    def reached(self, collected: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens before the steps with gradient."""
        return collected, self._late[0].expand(len(collected))

    def losses(self, batch: Batch, collected: Tensor, part: int = 0) -> Iterator[Loss]:
        """Yield the loss of the sampled images, then one per renoising; the update is their mean."""
        share, queries = 1 / (1 + self.config.renoisings), self.queries(batch)
        clean = self._finish(batch, collected)
        yield reward_loss(self.rewards, self.policy.decode_for_training(clean), queries, "sample", share=share)
        for index in range(self.config.renoisings):
            renoised = self._finish(batch, self._renoise(batch, clean.detach(), index))
            yield reward_loss(self.rewards, self.policy.decode_for_training(renoised), queries, "renoised", share=share)

    def _finish(self, batch: Batch, tokens: Tensor) -> Tensor:
        """Make the last steps of the sampler, with gradient."""
        return self.policy.integrate(tokens, batch.conditioning, self._late, self.rollout.guidance_scale)

    def _renoise(self, batch: Batch, clean: Tensor, index: int) -> Tensor:
        """Renoise finished tokens to the last noise level with new noise."""
        return mix(clean, self.noise(batch, "renoise", index), torch.full((len(clean),), self._late[0].item()))

    @property
    def _late(self) -> Tensor:
        """Return the sigmas of the steps with gradient."""
        return self.sigmas[-self.config.num_steps - 1 :]
