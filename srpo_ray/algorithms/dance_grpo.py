"""DanceGRPO (arXiv 2505.07818): policy gradients for a flow that samples by random steps.

Every prompt is sampled several times from one noise. An image that scores better than its group makes the random
steps that led to it more likely. No gradient of the reward is needed, so any black box can be one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from srpo_ray.algorithms.advantages import group_advantages, rows_of, table_of_update
from srpo_ray.algorithms.base import Algorithm, Batch, Gather, Loss, LossOutput
from srpo_ray.algorithms.reward_loss import plain_queries
from srpo_ray.config.algorithms.dance_grpo import DanceGRPOConfig
from srpo_ray.flow import euler_step, log_density, sde_step
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.rewards.base import PendingScore


@dataclass(frozen=True)
class Trajectories:
    """Random walks of S images through n steps."""

    points: Tensor
    """Tokens before each random step and after the last one, `[n, S, N, 64]`."""
    log_densities: Tensor
    """Of each random step under the model that made it, `[n - 1, S]`."""
    pending: PendingScore
    """Rewards of the finished images."""
    advantages: Tensor | None = None
    """Of the images within their groups, `[S]`; None until the update is settled."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Per-image statistics of the groups, `[S]` each."""


def policy_loss(
    log_density: Tensor, old_log_density: Tensor, walks: Trajectories, clip_range: float, share: float
) -> LossOutput:
    """Loss that makes one random step of every image as likely as its advantage says.

    It is `share` times the mean of `max(-A * ratio, -A * clip(ratio, 1 - range, 1 + range))`.

    Args:
        log_density: Of the step under the present model, `[S]` with gradient.
        old_log_density: Of the step under the model that made it, `[S]`.
        walks: Rewards and advantages of the images.
        clip_range: A ratio further than this from 1 has no gradient in the direction that takes it further.
        share: Share of the batch's loss.
    """
    assert walks.advantages is not None, "losses come after `settle`"
    scores, advantages = walks.pending.result(), walks.advantages.to(log_density)
    ratio = torch.exp(log_density - old_log_density)
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    losses = torch.maximum(-advantages * ratio, -advantages * clipped)
    metrics = {f"reward/{name}/sample": values for name, values in scores.raw.items()}
    metrics["reward/total/sample"] = scores.total
    metrics["loss/policy"] = losses.detach()
    metrics["ratio/clip_fraction"] = (ratio.detach() != clipped.detach()).float()
    return LossOutput(share * losses.mean(), {**metrics, **walks.metrics})


class DanceGRPO(Algorithm[DanceGRPOConfig]):
    """Group relative policy optimization of a flow."""

    @torch.no_grad()
    def collect(self, batch: Batch) -> Trajectories:
        """Walk from the noise of each prompt to its images and submit them."""
        sources = batch.draws.generators("sde", scope="per_image")
        points, log_densities = [self.noise(batch)], []
        for index in range(self.rollout.num_steps - 1):
            mean, std = self._step(points[-1], batch.conditioning, torch.full((len(sources),), index))
            points.append(mean + std * self.policy.noise(sources))
            log_densities.append(log_density(points[-1], mean, std))
        images = self.policy.decode(self._last_step(points[-1], batch.conditioning))
        pending = self.rewards.submit(images, plain_queries(batch.prompts))
        return Trajectories(torch.stack(points), torch.stack(log_densities), pending)

    def settle(self, rounds: Sequence[tuple[Batch, Trajectories]], gather: Gather) -> list[Trajectories]:
        """Compare the rewards of each group, wherever its images were made."""
        batches = [batch for batch, _ in rounds]
        rewards = table_of_update(batches, [walks.pending.result().total for _, walks in rounds], gather)
        advantages = group_advantages(rewards, self.config.advantage_limit)
        statistics = {
            "reward/group_std": rewards.std(dim=1, keepdim=True).expand_as(rewards),
            "advantage/std": advantages.std(dim=1, keepdim=True).expand_as(rewards),
        }
        return [
            replace(
                walks,
                advantages=rows_of(advantages, batch),
                metrics={name: rows_of(table, batch) for name, table in statistics.items()},
            )
            for batch, walks in rounds
        ]

    def losses(self, batch: Batch, collected: Trajectories, part: int = 0) -> Iterator[Loss]:
        """Yield one loss per trained step, of which each image has an order of its own, as in the release."""
        count, random_steps = self.config.trained_steps(self.rollout.num_steps), self.rollout.num_steps - 1
        sources = batch.draws.generators("grpo_steps", scope="per_image")
        orders = torch.stack([torch.randperm(random_steps, generator=source)[:count] for source in sources], dim=1)
        rows = torch.arange(len(sources))
        for indices in orders:
            mean, std = self._step(collected.points[indices, rows], batch.conditioning, indices)
            density = log_density(collected.points[indices + 1, rows], mean, std)
            old = collected.log_densities[indices, rows]
            yield partial(policy_loss, density, old, collected, self.config.clip_range, 1 / count)

    def _step(self, tokens: Tensor, conditioning: Conditioning, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the random steps from grid points `indices` `[S]` to the next ones."""
        here, there = self.sigmas[indices], self.sigmas[indices + 1]
        velocity = self.policy.velocity(tokens, here, conditioning, self.rollout.guidance_scale)
        return sde_step(tokens, velocity, here, there, self.config.eta)

    def _last_step(self, tokens: Tensor, conditioning: Conditioning) -> Tensor:
        """The step to sigma 0 has no noise: it would stay in the image that is scored."""
        sigma = self.sigmas[-2].expand(len(tokens))
        velocity = self.policy.velocity(tokens, sigma, conditioning, self.rollout.guidance_scale)
        return euler_step(tokens, velocity, sigma, self.sigmas[-1].expand(len(tokens)))
