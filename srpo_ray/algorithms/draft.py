"""DRaFT (arXiv 2309.17400): back-propagate the reward through the last steps of the sampler.

DRaFT-K back-propagates through the last K steps. DRaFT-LV reduces the variance of K = 1: it renoises the finished image
to the last noise level several times with new noise, and repeats the last step from each. With spread steps, the
gradient reaches evenly spaced steps whose inputs are detached.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from srpo_ray.algorithms.base import Algorithm, Batch, Loss
from srpo_ray.algorithms.reward_loss import reward_loss
from srpo_ray.algorithms.step_gradients import Trajectory, collect_trajectory, pinned, same_steps, sum_of_steps
from srpo_ray.config.algorithms.draft import DRaFTConfig
from srpo_ray.flow import mix


class DRaFT(Algorithm[DRaFTConfig]):
    """DRaFT-K without renoisings, DRaFT-LV with renoisings."""

    def collect(self, batch: Batch) -> Tensor | Trajectory:
        """Sample tokens `[B, N, 64]` up to the last steps; for spread steps, sample a whole trajectory."""
        if self.config.gradient_steps == "spread":
            return collect_trajectory(self, batch, self.sigmas)
        noise = self.noise(batch)
        early = self.sigmas[: -self.config.num_steps]
        return self.sample(noise, batch.conditioning, early)

    def reached(self, collected: Tensor | Trajectory) -> tuple[Tensor, Tensor]:
        """Return the finished tokens of a whole rollout, or the tokens before the last steps with gradient."""
        if isinstance(collected, Trajectory):
            return collected.points[-1], self.sigmas[-1].expand(len(collected.points[-1]))
        return collected, self._late[0].expand(len(collected))

    def losses(self, batch: Batch, collected: Tensor | Trajectory, part: int = 0) -> Iterator[Loss]:
        """Yield the loss of the sampled images, then one per renoising; the update is their mean."""
        share, queries = 1 / (1 + self.config.renoisings), self.queries(batch)
        if isinstance(collected, Trajectory):
            steps = sum_of_steps(self, batch, collected, same_steps(self._spread(batch), batch))
            clean = pinned(collected.points[-1], steps)
        else:
            clean = self._finish(batch, collected)
        yield reward_loss(self.rewards, self.policy.decode_for_training(clean), queries, "sample", share=share)
        for index in range(self.config.renoisings):
            renoised = self._finish(batch, self._renoise(batch, clean.detach(), index))
            yield reward_loss(self.rewards, self.policy.decode_for_training(renoised), queries, "renoised", share=share)

    def _spread(self, batch: Batch) -> list[int]:
        """Draw the update's evenly spaced steps: one at the same place of each of `num_steps` equal parts."""
        place = torch.rand((), generator=batch.draws.of_update("spread"), dtype=torch.float64).item()
        length = self.rollout.num_steps / self.config.num_steps
        return [int((part + place) * length) for part in range(self.config.num_steps)]

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
