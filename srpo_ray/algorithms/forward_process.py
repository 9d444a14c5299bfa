"""Forward-process methods: renoise finished images, and move the velocity there according to the images' rewards.

The images are sampled several times per prompt, with any sampler, and scored by any reward, without gradient. An image
`x` is mixed with new noise at a few sigmas. There the flow-matching target is `noise - x`, and a method raises or
lowers the likelihood of the image by moving the velocity towards the target or away from it. Velocities of other
weights at the same points are computed ahead.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from srpo_ray.algorithms.advantages import rows_of, table_of_update
from srpo_ray.algorithms.anchor import anchor_losses
from srpo_ray.algorithms.base import Algorithm, Batch, Gather, Loss, LossOutput, Phase
from srpo_ray.algorithms.forward_losses import matching_error
from srpo_ray.algorithms.moves import KnownScores
from srpo_ray.config.algorithms.base import Role
from srpo_ray.config.algorithms.forward_process import ForwardProcessSection
from srpo_ray.flow import mix
from srpo_ray.rewards.base import PendingScore, Scores

ForwardT = TypeVar("ForwardT", bound=ForwardProcessSection)


class Point(NamedTuple):
    """Finished images of a batch mixed with noise, one sigma each."""

    tokens: Tensor
    """`(1 - sigma) * image + sigma * noise`, `[B, N, C]`."""
    sigma: Tensor
    """`[B]`."""
    target: Tensor
    """Velocity `noise - image`, `[B, N, C]`."""


@dataclass(frozen=True)
class FinishedImages:
    """Sampled images, with the velocities of other weights at their points."""

    clean: Tensor
    """Clean tokens `[B, N, C]`."""
    pending: PendingScore
    """Rewards of the images of the request that these are part of; after `settle`, those of these images."""
    rows: slice = field(default_factory=lambda: slice(None))
    """Images of the request."""
    velocities: Mapping[Role, Tensor] = field(default_factory=dict)
    """Role -> velocities at T points, `[B, T, N, C]`."""
    weights: Tensor | None = None
    """Values of the images' rewards in the loss, `[B]`; None before `settle`."""
    offsets: Tensor | None = None
    """Constants of the group for each point, `[B, T]`; None if the loss has none."""
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    """Statistics of the groups, `[B]` each."""

    @property
    def scores(self) -> Scores:
        """Scores of these images; waits for them."""
        whole = self.pending.result()
        return Scores(whole.total[self.rows], {name: values[self.rows] for name, values in whole.raw.items()})

    def __getitem__(self, rows: slice) -> "FinishedImages":
        """Return some images of a whole request, before `settle`."""
        velocities: Mapping[Role, Tensor] = {role: values[rows] for role, values in self.velocities.items()}
        return FinishedImages(self.clean[rows], self.pending, rows, velocities)


class Inputs(NamedTuple):
    """Inputs of the loss at one point, B images."""

    velocity: Tensor
    """Velocity of the policy `[B, N, C]`, with gradient."""
    point: Point
    error: Tensor
    """Matching error of the policy `[B]`, with gradient."""
    velocities: Mapping[Role, Tensor]
    """Role -> velocity `[B, N, C]`."""
    weights: Tensor
    """`FinishedImages.weights`, `[B]`."""
    offset: Tensor | None
    """`FinishedImages.offsets` of the point, `[B]`."""


class ForwardProcess(Algorithm[ForwardT]):
    """Base class of forward-process methods, which define the weights of the images and the loss at a point."""

    @abstractmethod
    def weights(self, rewards: Tensor) -> Tensor:
        """Compute the value of each image in the loss from the rewards `[P, G]` of all groups of an update."""

    @abstractmethod
    def point_loss(self, inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss `[B]` at one point, without anchors, and metrics `[B]` of the method's own."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Sampling, then one phase for each further role whose velocities are needed."""
        first, *others = self.config.phase_roles
        asking = (Phase(role, partial(self._ask, role)) for role in others)
        return (Phase(first, lambda batch, _: self._sample(batch, first)), *asking)

    def collect(self, batch: Batch) -> FinishedImages:
        """Sample an image for each row, without gradient, and submit it to the rewards."""
        clean = self.sample(self.noise(batch, scope="per_image"), batch.conditioning, self.sigmas)
        return FinishedImages(clean, self.rewards.submit(self.policy.decode_for_training(clean), self.queries(batch)))

    @torch.no_grad()
    def _sample(self, batch: Batch, role: Role) -> FinishedImages:
        found = self.collect(batch)
        return self._ask(role, batch, found) if role in self.config.asked else found

    @torch.no_grad()
    def _ask(self, role: Role, batch: Batch, images: FinishedImages) -> FinishedImages:
        """Compute the velocities of a role, which the policy now has, at all points."""
        points = [self.point(batch, images, index) for index in range(self._points)]
        velocities = torch.stack([self._velocity(batch, point) for point in points], dim=1)
        return replace(images, velocities={**images.velocities, role: velocities})

    @property
    def _points(self) -> int:
        return self.config.points_per_image(self.rollout.num_steps)

    def point(self, batch: Batch, images: FinishedImages, index: int) -> Point:
        """Draw a point of each image: a sigma of one part of the sampler's grid, and a noise.

        Args:
            batch: Micro-batch.
            images: Its images.
            index: Index of the point, from 0, and of the part of the grid.
        """
        found = self.config.sigmas_of_points(self.rollout.num_steps)
        first, last = found * index // self._points, found * (index + 1) // self._points - 1
        chosen = batch.draws.integers("forward_sigma", first, last, index, scope="per_image")
        noise = self.noise(batch, "forward", index, scope="per_image")
        sigma = self.sigmas[chosen]
        return Point(mix(images.clean, noise, sigma), sigma, noise - images.clean)

    def _velocity(self, batch: Batch, point: Point) -> Tensor:
        return self.policy.velocity(point.tokens, point.sigma, batch.conditioning, self.rollout.guidance_scale)

    def settle(self, rounds: Sequence[tuple[Batch, FinishedImages]], gather: Gather) -> list[FinishedImages]:
        """Compute the weights of the images from the rewards of their groups, over all micro-batches and workers."""
        rewards = table_of_update([batch for batch, _ in rounds], [found.scores.total for _, found in rounds], gather)
        weights = self.weights(rewards)
        statistics = {
            "reward/group_std": rewards.std(dim=1, keepdim=True).expand_as(rewards),
            "advantage/std": weights.std(dim=1, keepdim=True).expand_as(rewards),
        }
        return [
            replace(
                found,
                pending=KnownScores(found.scores),
                rows=slice(None),
                weights=rows_of(weights, batch),
                metrics={name: rows_of(table, batch) for name, table in statistics.items()},
            )
            for batch, found in rounds
        ]

    def losses(self, batch: Batch, collected: FinishedImages, part: int = 0) -> Iterator[Loss]:
        """Yield one loss for each point of the optimizer step, which has every `optimizer_steps`-th point."""
        for index in range(part, self._points, self.config.optimizer_steps):
            point = self.point(batch, collected, index)
            yield partial(self._loss, collected, point, index, self._velocity(batch, point))

    def _loss(self, images: FinishedImages, point: Point, index: int, velocity: Tensor) -> LossOutput:
        """Compute the loss at a point with the anchors there."""
        assert images.weights is not None, "losses come after `settle`"
        error, scores = matching_error(velocity, point.target), images.scores
        velocities: Mapping[Role, Tensor] = {role: values[:, index] for role, values in images.velocities.items()}
        offset = None if images.offsets is None else images.offsets[:, index].to(error)
        inputs = Inputs(velocity, point, error, velocities, images.weights.to(error), offset)
        losses, own = self.point_loss(inputs)
        anchors, anchor_metrics = anchor_losses(velocity, velocities, self.config.anchor.weights)
        metrics = {f"reward/{name}/sample": values for name, values in scores.raw.items()}
        metrics |= {"reward/total/sample": scores.total, "loss/policy": losses.detach(), "forward/q": error.detach()}
        if "old" in velocities:
            metrics["forward/q_old"] = matching_error(velocities["old"], point.target)
        share = self.config.optimizer_steps / self._points
        return LossOutput(share * (losses + anchors).mean(), {**metrics, **own, **anchor_metrics, **images.metrics})

    def old_kept(self, update: int) -> float:
        """Return the decay of the old weights, see `OldDecay`."""
        return self.config.old_decay.kept(update)
