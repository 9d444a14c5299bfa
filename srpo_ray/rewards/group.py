"""Scorer of a group of workers that have the same images: one of them asks the rewards for all."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from srpo_ray.rewards.autograd import connect_total
from srpo_ray.rewards.base import PendingScore, PendingValues, RewardScorer, ScoreRequest, Scores
from srpo_ray.rewards.query import Pairs, TextQuery


class GroupRewards:
    """`RewardScorer` of the workers that share the tokens of each image, and so have the same images.

    The first worker of the group asks the rewards and sends scores and gradients to the others. All workers of the
    group must make the same calls in the same order.
    """

    def __init__(self, rewards: RewardScorer, group: dist.ProcessGroup) -> None:
        """Wrap the scorer of this worker.

        Args:
            rewards: Scorer that the first worker of the group uses.
            group: Workers with the same images.
        """
        self._rewards = rewards
        self._group = group

    def submit(self, images: Tensor, queries: Sequence[TextQuery]) -> "PendingGroupScore":
        """See `RewardScorer.submit`."""
        own = images.detach().requires_grad_(images.requires_grad)
        pending = self._rewards.submit(own, queries) if dist.get_rank(self._group) == 0 else None
        return PendingGroupScore(pending, own, images, self._group)

    def request(self, images: Tensor, requests: Sequence[ScoreRequest]) -> list["PendingGroupValues"]:
        """See `RewardScorer.request`."""
        pending: Sequence[PendingValues | None] = [None] * len(requests)
        if dist.get_rank(self._group) == 0:
            pending = self._rewards.request(images, requests)
        return [PendingGroupValues(each, images.device, self._group) for each in pending]

    def measure(
        self, images: Tensor, queries: Sequence[TextQuery], names: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """See `RewardScorer.measure`."""
        return self.request(images, [ScoreRequest(queries, names)])[0].result()

    @property
    def models(self) -> tuple[str, ...]:
        """See `RewardScorer.models`."""
        return self._rewards.models

    @property
    def pairwise(self) -> frozenset[str]:
        """See `RewardScorer.pairwise`."""
        return self._rewards.pairwise

    @property
    def trained(self) -> tuple[str, ...]:
        """See `RewardScorer.trained`."""
        return self._rewards.trained

    def compare(
        self, images: Tensor, queries: Sequence[TextQuery], pairs: Pairs, names: Sequence[str] | None = None
    ) -> "PendingGroupValues":
        """See `RewardScorer.compare`."""
        is_first = dist.get_rank(self._group) == 0
        pending = self._rewards.compare(images, queries, pairs, names) if is_first else None
        return PendingGroupValues(pending, images.device, self._group)

    def take_statistics(self) -> dict[str, float]:
        """See `RewardScorer.take_statistics`; only the first worker of the group has calls."""
        return self._rewards.take_statistics()


class PendingGroupScore:
    """Scores that the first worker of a group waits for, and then sends to the others."""

    def __init__(self, pending: PendingScore | None, own: Tensor, images: Tensor, group: dist.ProcessGroup) -> None:
        """Keep a request.

        Args:
            pending: Request of the first worker; None on the others.
            own: Submitted images, a leaf of the graph of the scores.
            images: The same images in the trainer's graph.
            group: Workers with these images.
        """
        self._pending = pending
        self._own = own
        self._images = images
        self._group = group
        self._scores: Scores | None = None

    def result(self) -> Scores:
        """See `PendingScore.result`. All workers of the group must call."""
        if self._scores is None:
            self._scores = self._share(self._pending.result() if self._pending else None)
        return self._scores

    def _share(self, scores: Scores | None) -> Scores:
        device = self._images.device
        small = None
        if scores:
            raw = {name: values.cpu() for name, values in scores.raw.items()}
            small = scores.total.detach().cpu(), raw, scores.weights
        total, raw, weights = _from_first(small, self._group)
        total, raw = total.to(device), {name: values.to(device) for name, values in raw.items()}
        if not self._images.requires_grad:
            return Scores(total, raw, weights)
        # A collective needs contiguous memory, which the images may lack.
        gradient = torch.empty(self._images.shape, dtype=self._images.dtype, device=device)
        if scores:
            # Samples do not mix, so the gradient of the sum contains that of each score.
            gradient.copy_(torch.autograd.grad(scores.total.sum(), self._own)[0])
        dist.broadcast(gradient, group=self._group, group_src=0)
        return Scores(connect_total(total, (gradient,), [self._images]), raw, weights)


class PendingGroupValues:
    """Scores or comparisons that the first worker of a group waits for, and then sends to the others."""

    def __init__(self, pending: PendingValues | None, device: torch.device, group: dist.ProcessGroup) -> None:
        """Keep a request.

        Args:
            pending: Request of the first worker; None on the others.
            device: Device of the result.
            group: Workers with these images.
        """
        self._pending = pending
        self._device = device
        self._group = group
        self._values: dict[str, Tensor] | None = None

    def result(self) -> dict[str, Tensor]:
        """See `PendingValues.result`. All workers of the group must call."""
        if self._values is None:
            found = None
            if self._pending:
                found = {name: values.cpu() for name, values in self._pending.result().items()}
            self._values = {name: values.to(self._device) for name, values in _from_first(found, self._group).items()}
        return self._values


def _from_first(value: Any, group: dist.ProcessGroup) -> Any:
    """Return the first worker's value on every worker of a group."""
    values = [value]
    dist.broadcast_object_list(values, group=group, group_src=0)
    return values[0]
