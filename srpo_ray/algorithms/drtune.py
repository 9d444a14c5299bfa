"""DRTune (arXiv 2405.00760): reward of a clean image that is predicted late, with gradient to evenly spaced steps.

The input of every call is detached, so the gradient of the image is a sum over the trained steps, without the chain of
Jacobians that makes long back-propagation unstable. The formulas follow the summary of direct-gradient methods in
LeapAlign (arXiv 2604.15311, algorithm 1).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from srpo_ray.algorithms.base import Algorithm, Batch, Loss
from srpo_ray.algorithms.reward_loss import reward_loss
from srpo_ray.algorithms.step_gradients import Trajectory, collect_trajectory, pinned, same_steps, sum_of_steps
from srpo_ray.config.algorithms.drtune import DRTuneConfig


class DRTune(Algorithm[DRTuneConfig]):
    """Deep reward tuning."""

    def collect(self, batch: Batch) -> Trajectory:
        """Sample up to the update's stop, and predict the clean image from there in one step."""
        num_steps = self.rollout.num_steps
        # Draw once for all samples and workers, because the stop determines the number of transformer calls.
        stop = batch.draws.integer("drtune_stop", num_steps - self.config.late_steps(num_steps), num_steps - 1)
        return collect_trajectory(self, batch, torch.cat([self.sigmas[: stop + 1], self.sigmas[-1:]]))

    def losses(self, batch: Batch, collected: Trajectory, part: int = 0) -> Iterator[Loss]:
        """Yield the single loss of the batch."""
        clean = pinned(collected.points[-1], self._trained(batch, collected))
        stop = collected.sigmas[-2].expand(len(batch.prompts))
        yield reward_loss(
            self.rewards,
            self.policy.decode_for_training(clean),
            self.queries(batch),
            "predicted",
            metrics={"step/sigma/predicted": stop},
            hinge=self.config.hinge,
        )

    def _trained(self, batch: Batch, trajectory: Trajectory) -> Tensor:
        """Recompute the trained steps with gradient; all samples have the same ones."""
        num_steps, stop = self.rollout.num_steps, len(trajectory.sigmas) - 2
        offset = batch.draws.integer("drtune_offset", 0, self.config.last_offset(num_steps))
        steps = self.config.trained(num_steps, offset, stop)
        return sum_of_steps(self, batch, trajectory, same_steps(steps, batch))
