"""Centred reward distillation (CRD, arXiv 2603.14128): the policy's gain in matching error is fitted to the rewards."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from srpo_ray.algorithms.advantages import group_advantages, rows_of, table_of_update
from srpo_ray.algorithms.base import Batch, Gather
from srpo_ray.algorithms.forward_losses import centred_regression, matching_error, optimality
from srpo_ray.algorithms.forward_process import FinishedImages, ForwardProcess, Inputs
from srpo_ray.config.algorithms.crd import CRDConfig


class CRD(ForwardProcess[CRDConfig]):
    """Centred reward distillation."""

    def weights(self, rewards: Tensor) -> Tensor:
        """Compute rewards in [0, 1] minus their mean over each prompt."""
        limit = self.config.advantage_limit
        found = optimality(group_advantages(rewards, limit), limit)
        return found - found.mean(dim=1, keepdim=True)

    def settle(self, rounds: Sequence[tuple[Batch, FinishedImages]], gather: Gather) -> list[FinishedImages]:
        """Compute the rewards, and the mean gain of each group at every point."""
        batches = [batch for batch, _ in rounds]
        gains = [self._gains(batch, images) for batch, images in rounds]
        means = [
            table.mean(dim=1, keepdim=True).expand_as(table)
            for table in (
                table_of_update(batches, [values[:, index] for values in gains], gather)
                for index in range(gains[0].shape[1])
            )
        ]
        return [
            replace(found, offsets=torch.stack([rows_of(table, batch) for table in means], dim=1))
            for batch, found in zip(batches, super().settle(rounds, gather), strict=True)
        ]

    def _gains(self, batch: Batch, images: FinishedImages) -> Tensor:
        """Compute the gains `[B, T]` of the policy that sampled."""
        columns = []
        for index in range(images.velocities["old"].shape[1]):
            target = self.point(batch, images, index).target
            old, new = (matching_error(images.velocities[role][:, index], target) for role in ("old", "policy"))
            columns.append(old - new)
        return torch.stack(columns, dim=1)

    def point_loss(self, inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the squared error of the centred gain."""
        assert inputs.offset is not None, "losses come after `settle`"
        gain = matching_error(inputs.velocities["old"], inputs.point.target) - inputs.error
        losses = centred_regression(gain, inputs.offset, inputs.weights, self.config.strength)
        return losses, {"forward/gain": gain.detach()}
