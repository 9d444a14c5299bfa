"""Preference optimization (Diffusion-DPO and its relatives) on images of files, or on sampled and ranked images.

Each image has a point: it is mixed with noise, or is a state on its way from or to noise. The loss compares the errors
of the velocities there with those of a reference, which are computed ahead. One call with gradient has both images of
all pairs of a micro-batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from srpo_ray.algorithms import preference_losses as losses_of
from srpo_ray.algorithms.anchor import anchor_losses
from srpo_ray.algorithms.base import Batch, Gather, Loss, LossOutput, Phase
from srpo_ray.algorithms.forward_losses import matching_error
from srpo_ray.algorithms.forward_process import Point
from srpo_ray.algorithms.preference_checks import check_first_gains
from srpo_ray.algorithms.preference_contrastive import cross, own_rows
from srpo_ray.algorithms.preference_metrics import preference_metrics
from srpo_ray.algorithms.preference_points import PreferencePoints
from srpo_ray.algorithms.preference_rows import Compared, row_losses, slopes_of
from srpo_ray.algorithms.preference_sampling import SampledImages, sample_images
from srpo_ray.algorithms.preference_sources import Judged, judged_images, rows_of_prompts
from srpo_ray.config.algorithms.base import Role
from srpo_ray.config.algorithms.preference_parts import MovingReference
from srpo_ray.models.conditioning import Conditioning


@dataclass(frozen=True)
class Asked:
    """Collected values of a micro-batch: sampled images, inverted images, and what other weights predict."""

    errors: Mapping[Role, Tensor] = field(default_factory=dict)
    """Role -> errors `[B, sides, draws]`, in the error space of the config."""
    velocities: Mapping[Role, Tensor] = field(default_factory=dict)
    """Role of an anchor -> velocities `[B, sides, draws, N, C]`."""
    sampled: SampledImages | None = None
    """Images that the update has sampled; B prompts have `B * group` images."""
    inverted: Tensor | None = None
    """States of the inversion `[B, sides, draws, N, C]` that are the points; None with other points."""

    def __getitem__(self, rows: slice) -> "Asked":
        """Return the values of some rows of a micro-batch, which are those of whole prompts."""
        group = 1 if self.sampled is None else self.sampled.group
        prompts = slice(rows.start // group, rows.stop // group)
        errors: Mapping[Role, Tensor] = {role: values[prompts] for role, values in self.errors.items()}
        kept: Mapping[Role, Tensor] = {role: values[prompts] for role, values in self.velocities.items()}
        inverted = None if self.inverted is None else self.inverted[prompts]
        return Asked(errors, kept, self.sampled and self.sampled[rows], inverted)


class Preference(PreferencePoints):
    """Preference optimization."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """A phase that samples or inverts, or has no calls, then one for each role whose velocities are needed."""
        asking = (Phase(role, partial(self._ask, role)) for role in self.config.asked)
        return (Phase(self.config.sampler_role, lambda batch, _: self.collect(batch)), *asking)

    @torch.no_grad()
    def collect(self, batch: Batch) -> Asked:
        """Sample images and submit them to the rewards, or invert given ones; nothing if neither is wanted."""
        if self.config.samples_images:
            sigmas = None
            if self.config.coupling == "states":
                sigmas = torch.stack([self.sigma(batch, (draw,)) for draw in range(self.config.draws)], dim=1)
            return Asked(sampled=sample_images(self, batch, sigmas))
        if self.config.inverts == "policy":
            return Asked(inverted=self.inverted(batch, judged_images(self.config, batch)))
        return Asked()

    def settle(self, rounds: Sequence[tuple[Batch, Asked]], gather: Gather) -> list[Asked]:
        """Wait for the rewards of sampled images, whose pixels need not be kept for the losses."""
        return [replace(found, sampled=found.sampled and found.sampled.answered()) for _, found in rounds]

    @torch.no_grad()
    def _ask(self, role: Role, batch: Batch, found: Asked) -> Asked:
        """Compute the errors of a role, which the policy now has, and for anchors its velocities, at all points."""
        batch = rows_of_prompts(batch, self.config.images_per_prompt)
        judged = judged_images(self.config, batch, found.sampled)
        if role == self.config.inverts:
            found = replace(found, inverted=self.inverted(batch, judged))
        points = [self.points(batch, judged, draw, found.inverted) for draw in range(self.config.draws)]
        velocities = [
            [self._velocity(at, text) for at, text in zip(sides, judged.conditionings, strict=True)] for sides in points
        ]
        errors = [
            torch.stack([self.error(v, at) for v, at in zip(of_draw, sides, strict=True)], dim=1)
            for of_draw, sides in zip(velocities, points, strict=True)
        ]
        kept = dict(found.velocities)
        if role in self.config.anchor.weights:
            kept[role] = torch.stack([torch.stack(of_draw, dim=1) for of_draw in velocities], dim=2)
        return replace(found, errors={**found.errors, role: torch.stack(errors, dim=2)}, velocities=kept)

    def _velocity(self, point: Point, conditioning: Conditioning) -> Tensor:
        return self.policy.velocity(point.tokens, point.sigma, conditioning, self.config.guidance_scale)

    def error(self, velocity: Tensor, point: Point) -> Tensor:
        """Compute the mean squared error at points in the space of the config, `[B]`."""
        factor = losses_of.space_factor(point.sigma, self.config.error_space)
        return factor.to(velocity) * matching_error(velocity, point.target)

    def losses(self, batch: Batch, collected: Asked, part: int = 0) -> Iterator[Loss]:
        """Yield one loss for each draw, whose single call has all sides."""
        batch = rows_of_prompts(batch, self.config.images_per_prompt)
        judged = judged_images(self.config, batch, collected.sampled)
        for draw in range(self.config.draws):
            points = self.points(batch, judged, draw, collected.inverted)
            compared = self._compare(judged, points, collected, draw)
            if batch.draws.update == 0 and self.config.reference_role is not None:
                check_first_gains(compared.gains, self._scales(judged, compared), slopes_of(self.config, judged))
            yield partial(self._loss, judged, collected, compared, draw)

    def _compare(self, judged: Judged, points: list[Point], asked: Asked, draw: int) -> Compared:
        """Call the policy at the points, and compare its errors with those of the reference."""
        whole = Point(*(torch.cat(parts) for parts in zip(*points, strict=True)))
        text, matrix = _joined(judged.conditionings), None
        if self.config.loss == "contrastive":
            crossed, texts = cross(whole, text)
            velocity, size = self._velocity(crossed, texts), len(text)
            matrix = self.error(velocity, crossed).unflatten(0, (size, size))
            velocity = own_rows(velocity, size)
        else:
            velocity = self._velocity(whole, text)
        velocities = velocity.chunk(len(points))
        errors = [self.error(each, at) for each, at in zip(velocities, points, strict=True)]
        return Compared(points, velocities, errors, self._gains(errors, asked, draw), matrix)

    def _scales(self, judged: Judged, compared: Compared) -> list[Tensor]:
        """Return the size of the errors, of which rounding is a part: at states of the rollout that of the target."""
        states = judged.states or (None,) * len(compared.points)
        return [
            error if kept is None else self.error(torch.zeros_like(at.target), at)
            for error, kept, at in zip(compared.errors, states, compared.points, strict=True)
        ]

    def _gains(self, errors: list[Tensor], asked: Asked, draw: int) -> list[Tensor]:
        role = self.config.reference_role
        if role is None:
            return [-error for error in errors]
        reference = asked.errors[role]
        return [reference[:, side, draw].to(error) - error for side, error in enumerate(errors)]

    def _loss(self, judged: Judged, asked: Asked, compared: Compared, draw: int) -> LossOutput:
        losses, metrics = row_losses(self.config, judged, compared)
        anchors, anchor_metrics = self._anchors(asked, draw, compared.velocities)
        own = preference_metrics(
            judged.signs,
            compared.errors,
            None if self.config.reference_role is None else compared.gains,
            compared.points[0].sigma,
            slopes_of(self.config, judged),
            judged.valid,
        )
        metrics = {"loss/preference": losses.detach(), **own, **metrics, **anchor_metrics, **judged.metrics}
        return LossOutput((losses + anchors).mean() / self.config.draws, metrics)

    def _anchors(self, asked: Asked, draw: int, velocities: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the mean of the anchor losses over the sides, `[B]`, and their metrics."""
        weights, sides = self.config.anchor.weights, []
        for side, velocity in enumerate(velocities):
            kept: Mapping[Role, Tensor] = {role: asked.velocities[role][:, side, draw] for role in weights}
            sides.append(anchor_losses(velocity, kept, weights))
        metrics = {name: torch.stack([own[name] for _, own in sides]).mean(dim=0) for name in sides[0][1]}
        return torch.stack([losses for losses, _ in sides]).mean(dim=0), metrics

    def old_kept(self, update: int) -> float:
        """Return the share of a moving reference that stays."""
        reference = self.config.reference
        return reference.kept(update) if isinstance(reference, MovingReference) else 0.0


def _joined(conditionings: tuple[Conditioning, ...]) -> Conditioning:
    return Conditioning(
        torch.cat([each.prompt_embeds for each in conditionings]),
        torch.cat([each.pooled_prompt_embeds for each in conditionings]),
    )
