"""Preference optimization (Diffusion-DPO and its relatives) on images of files, or on sampled and ranked images.

Both images of a pair are mixed with noise. The loss compares the errors of the velocities there with those of a
reference, which are computed ahead. One call with gradient has both images of all pairs of a micro-batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from srpo_ray.algorithms import preference_losses as losses_of
from srpo_ray.algorithms.anchor import anchor_losses
from srpo_ray.algorithms.base import Algorithm, Batch, Gather, Loss, LossOutput, Phase
from srpo_ray.algorithms.forward_losses import matching_error
from srpo_ray.algorithms.forward_process import Point
from srpo_ray.algorithms.preference_checks import check_first_gains
from srpo_ray.algorithms.preference_metrics import preference_metrics
from srpo_ray.algorithms.preference_points import drawn_sigmas, grid_sigmas
from srpo_ray.algorithms.preference_sampling import SampledImages, sample_images
from srpo_ray.algorithms.preference_sources import Judged, judged_images, rows_of_prompts
from srpo_ray.config.algorithms.base import Role
from srpo_ray.config.algorithms.preference import PreferenceConfig
from srpo_ray.config.algorithms.preference_parts import MovingReference
from srpo_ray.flow import mix
from srpo_ray.models.conditioning import Conditioning


@dataclass(frozen=True)
class AskedErrors:
    """Sampled images, if any, and velocities of other weights at all points, or their errors where those are enough."""

    errors: Mapping[Role, Tensor] = field(default_factory=dict)
    """Role -> errors `[B, sides, draws]`, in the error space of the config."""
    velocities: Mapping[Role, Tensor] = field(default_factory=dict)
    """Role of an anchor -> velocities `[B, sides, draws, N, C]`."""
    sampled: SampledImages | None = None
    """Images that the update has sampled; B prompts have `B * group` images."""

    def __getitem__(self, rows: slice) -> "AskedErrors":
        """Return the values of some sampled images, which are those of whole prompts."""
        assert self.sampled is not None, "images of files are not sampled together"
        group = self.sampled.group
        prompts = slice(rows.start // group, rows.stop // group)
        errors: Mapping[Role, Tensor] = {role: values[prompts] for role, values in self.errors.items()}
        kept: Mapping[Role, Tensor] = {role: values[prompts] for role, values in self.velocities.items()}
        return AskedErrors(errors, kept, self.sampled[rows])


class Preference(Algorithm[PreferenceConfig]):
    """Preference optimization."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """A phase that samples, or has no calls, then one for each role whose velocities are needed."""
        asking = (Phase(role, partial(self._ask, role)) for role in self.config.asked)
        return (Phase(self.config.sampler_role, lambda batch, _: self.collect(batch)), *asking)

    @torch.no_grad()
    def collect(self, batch: Batch) -> AskedErrors:
        """Sample images and submit them to the rewards; nothing if the data gives all images."""
        if not self.config.samples_images:
            return AskedErrors()
        sigmas = None
        if self.config.coupling == "states":
            sigmas = torch.stack([self._sigma(batch, (draw,)) for draw in range(self.config.draws)], dim=1)
        return AskedErrors(sampled=sample_images(self, batch, sigmas))

    def settle(self, rounds: Sequence[tuple[Batch, AskedErrors]], gather: Gather) -> list[AskedErrors]:
        """Wait for the rewards of sampled images, whose pixels need not be kept for the losses."""
        return [replace(found, sampled=found.sampled and found.sampled.answered()) for _, found in rounds]

    @torch.no_grad()
    def _ask(self, role: Role, batch: Batch, found: AskedErrors) -> AskedErrors:
        """Compute the errors of a role, which the policy now has, and for anchors its velocities, at all points."""
        batch, draws = rows_of_prompts(batch, self.config.images_per_prompt), range(self.config.draws)
        judged = judged_images(self.config, batch, found.sampled)
        points = [self.points(batch, judged, draw) for draw in draws]
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

    def points(self, batch: Batch, judged: Judged, draw: int) -> list[Point]:
        """Mix the images of each side with noise, at the sigma of a draw.

        Args:
            batch: Micro-batch.
            judged: Its images.
            draw: Index of the draw, from 0; the draws of an image have quantiles in consecutive equal parts.
        """
        found: list[Point] = []
        for side, clean in enumerate(judged.clean):
            address = (draw, side) if self.config.coupling == "independent" else (draw,)
            sigma = self._sigma(batch, address)
            states = judged.states[side] if judged.states else None
            if states is not None:
                found.append(Point(states.tokens[:, draw], sigma, states.velocities[:, draw]))
                continue
            noise = self._noise(batch, judged, side, address)
            found.append(Point(mix(clean, noise, sigma), sigma, noise - clean))
        return found

    def _noise(self, batch: Batch, judged: Judged, side: int, address: tuple[int, ...]) -> Tensor:
        """Draw the noise of a point, or that from which the rollout of the row started."""
        if self.config.coupling == "rollout":
            draws = replace(batch.draws, children=judged.children[side])
            return self.noise(replace(batch, draws=draws), scope="per_image")
        return self.noise(batch, "pair_noise", *address)

    def _sigma(self, batch: Batch, address: tuple[int, ...]) -> Tensor:
        share = batch.draws.uniform("pair_sigma", 0.0, 1.0, *address)
        quantile = (address[0] + share) / self.config.draws
        section = self.config.sigma
        return (
            grid_sigmas(section, quantile, self.sigmas) if section.type == "grid" else drawn_sigmas(section, quantile)
        )

    def _velocity(self, point: Point, conditioning: Conditioning) -> Tensor:
        return self.policy.velocity(point.tokens, point.sigma, conditioning, self.config.guidance_scale)

    def error(self, velocity: Tensor, point: Point) -> Tensor:
        """Compute the mean squared error at points in the space of the config, `[B]`."""
        factor = losses_of.space_factor(point.sigma, self.config.error_space)
        return factor.to(velocity) * matching_error(velocity, point.target)

    def losses(self, batch: Batch, collected: AskedErrors, part: int = 0) -> Iterator[Loss]:
        """Yield one loss for each draw, whose single call has all sides."""
        batch = rows_of_prompts(batch, self.config.images_per_prompt)
        judged = judged_images(self.config, batch, collected.sampled)
        for draw in range(self.config.draws):
            points = self.points(batch, judged, draw)
            whole = Point(*(torch.cat(parts) for parts in zip(*points, strict=True)))
            velocity = self._velocity(whole, _joined(judged.conditionings))
            yield partial(self._loss, batch, judged, collected, points, draw, velocity.chunk(len(points)))

    def _loss(
        self,
        batch: Batch,
        judged: Judged,
        asked: AskedErrors,
        points: list[Point],
        draw: int,
        velocities: tuple[Tensor, ...],
    ) -> LossOutput:
        config = self.config
        errors = [self.error(velocity, at) for velocity, at in zip(velocities, points, strict=True)]
        gains = self._gains(errors, asked, draw)
        if batch.draws.update == 0 and config.reference_role is not None:
            check_first_gains(gains, errors, config.beta)
        losses, metrics = self._preference(judged, points, velocities, errors, gains)
        if config.weights == "confidence":
            losses = losses * judged.confidence.to(losses)
        preferred = [(sign > 0).to(error) * error for sign, error in zip(judged.signs, errors, strict=True)]
        losses = losses + config.sft * torch.stack(preferred).sum(dim=0)
        if judged.valid is not None:
            losses = losses * judged.valid
        anchors, anchor_metrics = self._anchors(asked, draw, velocities)
        known = None if config.reference_role is None else gains
        own = preference_metrics(judged.signs, errors, known, points[0].sigma, self._slope, judged.valid)
        metrics = {"loss/preference": losses.detach(), **own, **metrics, **anchor_metrics, **judged.metrics}
        return LossOutput((losses + anchors).mean() / config.draws, metrics)

    @property
    def _slope(self) -> float:
        """Derivative of the log-odds of a preference in the margin."""
        slopes = {"kto": self.config.beta, "mapo": self.config.beta * self.config.curvature / 2}
        return slopes.get(self.config.loss, self.config.beta / 2)

    def _gains(self, errors: list[Tensor], asked: AskedErrors, draw: int) -> list[Tensor]:
        role = self.config.reference_role
        if role is None:
            return [-error for error in errors]
        reference = asked.errors[role]
        return [reference[:, side, draw].to(error) - error for side, error in enumerate(errors)]

    def _preference(
        self,
        judged: Judged,
        points: list[Point],
        velocities: tuple[Tensor, ...],
        errors: list[Tensor],
        gains: list[Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss `[B]` without weights of the rows, and metrics of its own."""
        config, metrics = self.config, {}
        if config.loss == "sft":
            return (judged.signs[0] > 0).to(errors[0]) * errors[0], metrics
        if config.loss == "kto":
            baseline = losses_of.baseline_of(torch.stack(gains))
            parts = [
                losses_of.desirability(gain, sign.to(gain), config.beta, baseline)
                for gain, sign in zip(gains, judged.signs, strict=True)
            ]
            return torch.stack(parts).mean(dim=0), {"preference/baseline": baseline.expand(len(gains[0]))}
        if config.loss == "mapo":
            scores = [losses_of.error_score(error, config.curvature) for error in errors]
            return losses_of.logistic(config.beta * (scores[0] - scores[1])), metrics
        other = gains[1]
        if config.safeguard is not None:
            share = losses_of.allowed_share(*self._residuals(points, velocities), config.safeguard)
            other, metrics = losses_of.scale_gradient(other, share), {"preference/allowed_share": share}
        margin = gains[0] - config.loser_weight * other
        return self._of_margin(margin, judged.confidence), metrics

    def _residuals(self, points: list[Point], velocities: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Compute the gradients of both terms of the margin in their velocities, up to a common factor."""
        preferred, other = (
            losses_of.space_factor(at.sigma, self.config.error_space).to(velocity)[:, None, None]
            * (velocity.detach() - at.target)
            for velocity, at in zip(velocities, points, strict=True)
        )
        return preferred, self.config.loser_weight * other

    def _of_margin(self, margin: Tensor, confidence: Tensor) -> Tensor:
        config = self.config
        logit = config.beta / 2 * margin
        if config.loss == "ipo":
            losses = losses_of.squared_margin(margin, config.beta)
        elif config.loss == "hinge":
            losses = losses_of.hinge(margin, config.margin)
        else:
            soft = config.weights == "soft_labels"
            losses = losses_of.logistic(logit, (1 - confidence.to(logit)) / 2 if soft else config.label_smoothing)
        if config.doubt is None:
            return losses
        return losses * losses_of.trust(logit, config.doubt.temperature, config.doubt.scale)

    def _anchors(
        self, asked: AskedErrors, draw: int, velocities: tuple[Tensor, ...]
    ) -> tuple[Tensor, dict[str, Tensor]]:
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
