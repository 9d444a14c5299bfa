"""The loss that baselines with reward gradients share: raise the reward of a picture for its own prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srpo_ray.algorithms.base import Batch, LossOutput
from srpo_ray.rewards.base import PendingScore, RewardScorer
from srpo_ray.rewards.query import TextQuery


def plain_queries(prompts: Sequence[str]) -> list[TextQuery]:
    """Every prompt as it is, without control words."""
    return [TextQuery.plain(prompt) for prompt in prompts]


@dataclass(frozen=True)
class RewardLoss:
    """Pictures that are decoded and submitted; their score is awaited."""

    label: str
    """What the pictures are, in the metrics' names."""
    pending: PendingScore
    metrics: dict[str, Tensor]
    """More per-sample metrics `[B]`, detached."""
    share: float
    """This loss's share of the batch's loss."""
    hinge: float | None
    """Rewards above it have no gradient; None has no such limit."""

    def result(self) -> LossOutput:
        """Wait for the scores: the mean of `relu(hinge - reward)`, or of `-reward` without a hinge."""
        scores = self.pending.result()
        losses = -scores.total if self.hinge is None else torch.relu(self.hinge - scores.total)
        metrics = {f"reward/{name}/{self.label}": values for name, values in scores.raw.items()}
        metrics[f"reward/total/{self.label}"] = scores.total.detach()
        metrics[f"loss/{self.label}"] = losses.detach()
        if self.hinge is not None:
            metrics[f"loss/below_hinge/{self.label}"] = (losses > 0).float()
        return LossOutput(self.share * losses.mean(), {**metrics, **self.metrics})


def reward_loss(
    rewards: RewardScorer,
    batch: Batch,
    images: Tensor,
    label: str,
    *,
    metrics: dict[str, Tensor] | None = None,
    share: float = 1.0,
    hinge: float | None = None,
) -> RewardLoss:
    """Submit pictures `[B, 3, H, W]` of a batch against their plain prompts; for the rest see `RewardLoss`."""
    pending = rewards.submit(images, plain_queries(batch.prompts))
    return RewardLoss(label, pending, metrics or {}, share, hinge)
