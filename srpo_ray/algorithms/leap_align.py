"""LeapAlign (arXiv 2604.15311): back-propagate the reward through two leaps that replace the whole trajectory.

Two steps k and j of a rollout are drawn for each sample. One velocity leaps from k to j, another from j to the clean
image. The values at the ends of both leaps are those of the rollout (a latent connector), the gradient is that of the
leaps, so any step can be trained at the memory of two calls.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from srpo_ray.algorithms.base import Algorithm, Batch, Loss
from srpo_ray.algorithms.reward_loss import reward_loss
from srpo_ray.algorithms.step_gradients import Trajectory, collect_trajectory, pinned, scaled_gradient
from srpo_ray.config.algorithms.leap_align import LeapAlignConfig
from srpo_ray.flow import euler_step


class LeapAlign(Algorithm[LeapAlignConfig]):
    """Reward back-propagation through two-step trajectories."""

    def collect(self, batch: Batch) -> Trajectory:
        """Sample the images, without gradient."""
        return collect_trajectory(self, batch, self.sigmas)

    def losses(self, batch: Batch, collected: Trajectory, part: int = 0) -> Iterator[Loss]:
        """Yield the single loss of the batch."""
        first, second = self._draw(batch)
        middle, end = collected.at(second), collected.points[-1]
        landed = self._leap(batch, collected.at(first), first, self.sigmas[second])
        joined = pinned(middle, landed)
        finished = self._leap(batch, joined, second, self.sigmas[-1].expand(len(second)))
        limit = self.config.min_distance
        distances = {"middle": _distance(landed, middle), "end": _distance(finished, end)}
        weights = 1 / sum((distance.clamp(min=limit) for distance in distances.values()), torch.zeros(()))
        metrics = {f"leap/distance/{place}": distance for place, distance in distances.items()}
        yield reward_loss(
            self.rewards,
            self.policy.decode_for_training(pinned(end, finished)),
            self.queries(batch),
            "sample",
            metrics=metrics | {"leap/weight": weights},
            hinge=self.config.hinge,
            weights=weights,
        )

    def _draw(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Draw the steps `[B]` at which the first and the second leap of each sample start."""
        pairs = [
            torch.randperm(self.rollout.num_steps, generator=source)[:2].sort().values
            for source in batch.draws.generators("leap")
        ]
        first, second = torch.stack(pairs, dim=1)
        return first, second

    def _leap(self, batch: Batch, tokens: Tensor, steps: Tensor, there: Tensor) -> Tensor:
        """Go from each sample's step to sigma `there` `[B]` with one velocity, and discount its input's gradient.

        The discount has no effect on the first leap, whose input is a constant.
        """
        here, discounted = self.sigmas[steps], scaled_gradient(tokens, self.config.discount)
        velocity = self.policy.velocity(discounted, here, batch.conditioning, self.rollout.guidance_scale)
        return euler_step(tokens, velocity, here, there)


def _distance(found: Tensor, expected: Tensor) -> Tensor:
    """Compute the mean absolute difference of each sample, `[B]`."""
    return (found.detach() - expected).abs().flatten(1).mean(1)
