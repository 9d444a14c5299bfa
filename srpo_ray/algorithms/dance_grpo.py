"""DanceGRPO (arXiv 2505.07818): policy gradients for a flow that samples by random steps.

Every prompt is sampled several times from one noise. An image that scores better than its group makes the random
steps that led to it more likely. No gradient of the reward is needed, so any black box can be one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from srpo_ray.algorithms.base import Algorithm, Batch, Loss, LossOutput
from srpo_ray.algorithms.reward_loss import plain_queries
from srpo_ray.config.algorithms.dance_grpo import DanceGRPOConfig
from srpo_ray.flow import euler_step, log_density, sde_step
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.rewards.base import PendingScore


def group_advantages(rewards: Tensor, group_size: int, limit: float) -> Tensor:
    """How much better than its own group each image is, in standard deviations of the group.

    Args:
        rewards: `[B * group_size]`, group by group.
        group_size: Images of one prompt, at least 2.
        limit: Advantages are clamped to plus or minus this.

    Returns:
        `[B * group_size]`; zero where a group's rewards are all the same.
    """
    groups = rewards.reshape(-1, group_size)
    centred = groups - groups.mean(dim=1, keepdim=True)
    return (centred / (groups.std(dim=1, keepdim=True) + 1e-8)).clamp(-limit, limit).flatten()


@dataclass(frozen=True)
class Trajectories:
    """Random walks of S = B * group_size samples, group by group, through n steps."""

    points: Tensor
    """Tokens before each random step and after the last one, `[n, S, N, 64]`."""
    log_densities: Tensor
    """Of each random step under the model that made it, `[n - 1, S]`."""
    conditioning: Conditioning
    """Text features, S of them."""
    pending: PendingScore
    """Rewards of the finished images."""


def policy_loss(
    log_density: Tensor, old_log_density: Tensor, pending: PendingScore, config: DanceGRPOConfig, share: float
) -> LossOutput:
    """Loss that makes one random step of every sample as likely as its advantage says; waits for the rewards.

    It is `share` times the mean of `max(-A * ratio, -A * clip(ratio, 1 - range, 1 + range))`.

    Args:
        log_density: Of the step under the present model, `[S]` with gradient.
        old_log_density: Of the step under the model that made it, `[S]`.
        pending: Rewards of the finished images.
        config: Section `algorithm`.
        share: Share of the batch's loss.
    """
    scores = pending.result()
    advantages = group_advantages(scores.total, config.group_size, config.advantage_limit)
    ratio = torch.exp(log_density - old_log_density)
    clipped = ratio.clamp(1 - config.clip_range, 1 + config.clip_range)
    losses = torch.maximum(-advantages * ratio, -advantages * clipped)
    metrics = {f"reward/{name}/sample": values for name, values in scores.raw.items()}
    metrics["reward/total/sample"] = scores.total
    metrics["reward/group_std"] = scores.total.reshape(-1, config.group_size).std(dim=1)
    metrics["loss/policy"] = losses.detach()
    metrics["advantage/std"] = advantages.std().reshape(1)
    metrics["ratio/clip_fraction"] = (ratio.detach() != clipped.detach()).float()
    return LossOutput(share * losses.mean(), metrics)


class DanceGRPO(Algorithm[DanceGRPOConfig]):
    """Group relative policy optimization of a flow."""

    @torch.no_grad()
    def collect(self, batch: Batch) -> Trajectories:
        """Walk from each prompt's noise to `group_size` images and submit them."""
        rows = [row for row in range(len(batch.prompts)) for _ in range(self.config.group_size)]
        conditioning = batch.conditioning[rows]
        first = self.noise(batch)
        sources = self._generators(batch, "sde")
        points, log_densities = [first[rows]], []
        for index in range(self.rollout.num_steps - 1):
            mean, std = self._step(points[-1], conditioning, torch.full((len(rows),), index))
            points.append(mean + std * self.policy.noise(sources))
            log_densities.append(log_density(points[-1], mean, std))
        images = self.policy.decode(self._last_step(points[-1], conditioning))
        pending = self.rewards.submit(images, plain_queries([batch.prompts[row] for row in rows]))
        return Trajectories(torch.stack(points), torch.stack(log_densities), conditioning, pending)

    def losses(self, batch: Batch, collected: Trajectories) -> Iterator[Loss]:
        """Yield one loss per trained step, of which each sample has an order of its own, as in the release."""
        count, random_steps = self.config.trained_steps(self.rollout.num_steps), self.rollout.num_steps - 1
        sources = self._generators(batch, "grpo_steps")
        orders = torch.stack([torch.randperm(random_steps, generator=source)[:count] for source in sources], dim=1)
        rows = torch.arange(len(sources))
        for indices in orders:
            mean, std = self._step(collected.points[indices, rows], collected.conditioning, indices)
            density = log_density(collected.points[indices + 1, rows], mean, std)
            old = collected.log_densities[indices, rows]
            yield partial(policy_loss, density, old, collected.pending, self.config, 1 / count)

    def _generators(self, batch: Batch, purpose: str) -> list[torch.Generator]:
        """One generator per image, group by group."""
        by_child = [batch.draws.generators(purpose, child) for child in range(self.config.group_size)]
        return [sources[row] for row in range(len(batch.prompts)) for sources in by_child]

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
