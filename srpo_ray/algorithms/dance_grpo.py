"""DanceGRPO (arXiv 2505.07818): policy gradients for a flow that samples with stochastic steps.

Every prompt is sampled several times from one noise. If an image scores better than its group, the update raises the
probability of the stochastic steps of its trajectory. The reward needs no gradient, so it can be any black box.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from srpo_ray.algorithms.advantages import group_advantages, rows_of, table_of_update
from srpo_ray.algorithms.base import Algorithm, Batch, Gather, Loss, LossOutput
from srpo_ray.config.algorithms.dance_grpo import DanceGRPOConfig
from srpo_ray.flow import euler_step, log_density, sde_step
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.rewards.base import PendingScore, Scores


@dataclass(frozen=True)
class ScoresOfRows:
    """Scores of some images of a larger request."""

    pending: PendingScore
    """Scores of all its images."""
    rows: slice
    """Images among them."""

    def result(self) -> Scores:
        """See `PendingScore.result`."""
        return self._scores

    @cached_property
    def _scores(self) -> Scores:
        whole = self.pending.result()
        return Scores(whole.total[self.rows], {name: values[self.rows] for name, values in whole.raw.items()})


@dataclass(frozen=True)
class Trajectories:
    """Trajectories of S images through n steps."""

    points: Tensor
    """Tokens before each stochastic step and after the last one, `[n, S, N, 64]`."""
    log_densities: Tensor
    """Log-probability of each stochastic step under the model that sampled it, `[n - 1, S]`."""
    pending: PendingScore
    """Rewards of the finished images."""
    advantages: Tensor | None = None
    """Advantages of the images within their groups, `[S]`; None before `settle`."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Per-image statistics of the groups, `[S]` each."""

    def __getitem__(self, rows: slice) -> "Trajectories":
        """Return the trajectories of some images, before `settle`."""
        pending = ScoresOfRows(self.pending, rows)
        return Trajectories(self.points[:, rows], self.log_densities[:, rows], pending)


def policy_loss(
    log_density: Tensor, old_log_density: Tensor, walks: Trajectories, clip_range: float, share: float
) -> LossOutput:
    """Compute the clipped policy-gradient loss of one stochastic step of every image.

    It is `share` times the mean of `max(-A * ratio, -A * clip(ratio, 1 - range, 1 + range))`.

    Args:
        log_density: Log-probability of the step under the present model, `[S]` with gradient.
        old_log_density: Log-probability of the step under the model that sampled it, `[S]`.
        walks: Trajectories with the rewards and advantages of the images.
        clip_range: Clip range of the ratio around 1; outside, the gradient that moves it further is zero.
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
        """Sample the trajectories of each prompt's images, and submit the images to the rewards."""
        sources = batch.draws.generators("sde", scope="per_image")
        points, log_densities = [self.noise(batch)], []
        for index in range(self.rollout.num_steps - 1):
            mean, std = self._step(points[-1], batch.conditioning, torch.full((len(sources),), index))
            points.append(mean + std * self.policy.noise(sources))
            log_densities.append(log_density(points[-1], mean, std))
        images = self.policy.decode_for_training(self._last_step(points[-1], batch.conditioning))
        pending = self.rewards.submit(images, self.queries(batch))
        return Trajectories(torch.stack(points), torch.stack(log_densities), pending)

    def settle(self, rounds: Sequence[tuple[Batch, Trajectories]], gather: Gather) -> list[Trajectories]:
        """Compute the advantages within each group, over all micro-batches and workers."""
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
        """Yield one loss per trained step; each image has its own order of steps, as in the release."""
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
        """Compute mean and standard deviation of the stochastic steps from grid points `indices` `[S]` to the next."""
        here, there = self.sigmas[indices], self.sigmas[indices + 1]
        velocity = self.policy.velocity(tokens, here, conditioning, self.rollout.guidance_scale)
        return sde_step(tokens, velocity, here, there, self.config.eta)

    def _last_step(self, tokens: Tensor, conditioning: Conditioning) -> Tensor:
        """Make the step to sigma 0 without noise, which would stay in the scored image."""
        sigma = self.sigmas[-2].expand(len(tokens))
        velocity = self.policy.velocity(tokens, sigma, conditioning, self.rollout.guidance_scale)
        return euler_step(tokens, velocity, sigma, self.sigmas[-1].expand(len(tokens)))
