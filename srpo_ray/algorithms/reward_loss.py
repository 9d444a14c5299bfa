"""Loss of all algorithms that use the reward's gradient: raise the score of an image for a query."""

from collections.abc import Sequence

import torch
from torch import Tensor

from srpo_ray.algorithms.base import Loss, LossOutput
from srpo_ray.rewards.base import RewardScorer
from srpo_ray.rewards.query import TextQuery


def reward_loss(
    rewards: RewardScorer,
    images: Tensor,
    queries: Sequence[TextQuery],
    label: str,
    *,
    metrics: dict[str, Tensor] | None = None,
    share: float = 1.0,
    hinge: float | Tensor | None = None,
    weights: Tensor | None = None,
) -> Loss:
    """Submit images to the rewards, and return the loss that waits for their scores.

    The loss is `share * mean(relu(hinge - reward))`, or `share * mean(-reward)` without a hinge, where
    every sample may have a weight of its own. Samples whose metric `loss/below_hinge` is 0 have no gradient.

    Args:
        rewards: Scorer of images.
        images: Images `[B, 3, H, W]` in [0, 1], with gradient.
        queries: B queries.
        label: Name of the images in the metrics.
        metrics: Further per-sample metrics `[B]`, detached.
        share: Share of the batch's loss.
        hinge: Reward above which the gradient is zero, one number or `[B]`; None for no limit.
        weights: Weight of each sample's loss `[B]`, detached; None is 1. Metrics show the losses without it.
    """
    pending = rewards.submit(images, queries)

    def loss() -> LossOutput:
        scores = pending.result()
        limit = hinge.to(scores.total) if isinstance(hinge, Tensor) else hinge
        losses = -scores.total if limit is None else torch.relu(limit - scores.total)
        found = {f"reward/{name}/{label}": values for name, values in scores.raw.items()}
        found[f"reward/total/{label}"] = scores.total.detach()
        found[f"loss/{label}"] = losses.detach()
        if hinge is not None:
            found[f"loss/below_hinge/{label}"] = (losses > 0).float()
        weighted = losses if weights is None else weights.to(losses) * losses
        return LossOutput(share * weighted.mean(), {**found, **(metrics or {})})

    return loss
