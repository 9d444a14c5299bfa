"""Preference optimization (Diffusion-DPO and its relatives) on judged images: no rollout, no reward.

Both images of a pair are mixed with noise. The loss compares the errors of the velocities there with those of a
reference, which are computed ahead. One call with gradient has both images of all pairs of a micro-batch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from srpo_ray.algorithms import preference_contrastive as crossed_of
from srpo_ray.algorithms import preference_losses as losses_of
from srpo_ray.algorithms.anchor import anchor_losses
from srpo_ray.algorithms.base import Algorithm, Batch, Loss, LossOutput, Phase
from srpo_ray.algorithms.forward_losses import matching_error
from srpo_ray.algorithms.forward_process import Point
from srpo_ray.algorithms.preference_inversion import inverted_point, states_at, walk
from srpo_ray.algorithms.preference_metrics import preference_metrics
from srpo_ray.algorithms.preference_points import drawn_sigmas, grid_sigmas
from srpo_ray.config.algorithms.base import Role
from srpo_ray.config.algorithms.preference import PreferenceConfig
from srpo_ray.config.algorithms.preference_parts import MovingReference
from srpo_ray.config.model import RolloutConfig
from srpo_ray.flow import SigmaGrid, mix
from srpo_ray.models.conditioning import Conditioning

LARGEST_FIRST_LOGIT = 0.01
"""Limit of `beta * |gain|` in the first update, where policy and reference are equal up to rounding."""
ROUNDING = 1e-3
"""Relative difference of two errors that rounding to 16 bits may explain."""


class Judged(NamedTuple):
    """Judged images of a micro-batch."""

    clean: tuple[Tensor, ...]
    """Clean tokens `[B, N, C]` of each side: preferred and other images, or labelled ones."""
    conditionings: tuple[Conditioning, ...]
    """Text features of each side."""
    signs: tuple[Tensor, ...]
    """1 for preferred and liked images, -1 for others, `[B]` of each side."""
    confidence: Tensor
    """Confidence of each row in its judgement, `[B]` in (0, 1]."""


@dataclass(frozen=True)
class AskedErrors:
    """Velocities of other weights at all points, or their errors where those are enough."""

    errors: Mapping[Role, Tensor] = field(default_factory=dict)
    """Role -> errors `[B, sides, draws]`, in the error space of the config."""
    velocities: Mapping[Role, Tensor] = field(default_factory=dict)
    """Role of an anchor -> velocities `[B, sides, draws, N, C]`."""
    states: Tensor | None = None
    """States of the inversion `[B, sides, draws, N, C]` that are the points; None with other points."""

    def __getitem__(self, rows: slice) -> "AskedErrors":
        """Return the values of some rows."""
        errors: Mapping[Role, Tensor] = {role: values[rows] for role, values in self.errors.items()}
        velocities: Mapping[Role, Tensor] = {role: values[rows] for role, values in self.velocities.items()}
        return AskedErrors(errors, velocities, None if self.states is None else self.states[rows])


class Preference(Algorithm[PreferenceConfig]):
    """Preference optimization."""

    @classmethod
    def check_points(cls, config: PreferenceConfig, rollout: RolloutConfig, grid: SigmaGrid) -> None:
        """Check that the type `grid` has a sigma inside its window."""
        if config.sigma.type == "grid":
            grid_sigmas(config.sigma, torch.zeros(1), grid_of_points(config, grid, rollout))

    @property
    def phases(self) -> tuple[Phase, ...]:
        """A phase of the policy, which may invert images, then one for each role whose velocities are needed."""
        asking = (Phase(role, partial(self._ask, role)) for role in self.config.asked)
        return (Phase("policy", lambda batch, _: self.collect(batch)), *asking)

    def collect(self, batch: Batch) -> AskedErrors:
        """Collect nothing, as the data gives the images, unless the policy inverts them."""
        return AskedErrors(states=self._inverted(batch) if self.config.inverts == "policy" else None)

    @torch.no_grad()
    def _inverted(self, batch: Batch) -> Tensor:
        """Invert the images of all sides with the weights that the policy now has: drawn states, see `AskedErrors`."""
        section, grid, judged = self.config.inversion, self._grid.flip(0), self.judged(batch)
        wanted = torch.stack([self._sigma(batch, (draw,)) for draw in range(self.config.draws)])
        sides: list[Tensor] = []
        for clean, text in zip(judged.clean, judged.conditionings, strict=True):
            velocity = partial(self.policy.velocity, conditioning=text, guidance_scale=self.config.guidance_scale)
            states = walk(clean, grid, velocity, partial(self.noise, batch, "inversion"), section)
            sides.append(states_at(wanted, grid, states))
        return torch.stack(sides, dim=1)

    @torch.no_grad()
    def _ask(self, role: Role, batch: Batch, found: AskedErrors) -> AskedErrors:
        """Compute the errors of a role, which the policy now has, and for anchors its velocities, at all points."""
        if role == self.config.inverts:
            found = replace(found, states=self._inverted(batch))
        judged, draws = self.judged(batch), range(self.config.draws)
        points = [self.points(batch, judged, draw, found.states) for draw in draws]
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

    def judged(self, batch: Batch) -> Judged:
        """Order the images of a micro-batch by side, preferred ones first."""
        assert batch.images is not None, "the config requires data.pairs"
        assert batch.labels is not None, "judged images have labels"
        reverse = self.config.orientation == "reversed"
        if self.config.source == "labels":
            label = batch.labels[:, 0].to(batch.images)
            sign = -label.sign() if reverse else label.sign()
            return Judged((batch.images[:, 0],), (batch.conditioning,), (sign,), label.abs())
        other = batch.conditioning
        if self.config.uses_own_captions:
            assert batch.other_conditioning is not None, "the data requires other captions"
            other = batch.other_conditioning
        labels = batch.labels.to(batch.images)
        confidence = labels[:, 0] if self.config.source == "captions" else labels[:, 0] - labels[:, 1]
        ones = torch.ones_like(confidence)
        # Both captions of source `captions` are those of one image.
        sides = [(batch.images[:, 0], batch.conditioning), (batch.images[:, -1], other)]
        clean, texts = zip(*(reversed(sides) if reverse else sides), strict=True)
        count = self.config.sides
        return Judged(clean[:count], texts[:count], (ones, -ones)[:count], confidence)

    def points(self, batch: Batch, judged: Judged, draw: int, states: Tensor | None = None) -> list[Point]:
        """Mix the images of each side with noise, at the sigma of a draw, or take the states of their inversion.

        Args:
            batch: Micro-batch.
            judged: Its images.
            draw: Index of the draw, from 0; the draws of an image have quantiles in consecutive equal parts.
            states: States of the inversion, see `AskedErrors`.
        """
        if states is not None:
            at = self._sigma(batch, (draw,))
            return [inverted_point(clean, states[:, side, draw], at) for side, clean in enumerate(judged.clean)]
        found: list[Point] = []
        for side, clean in enumerate(judged.clean):
            address = (draw, side) if self.config.coupling == "independent" else (draw,)
            noise = self.noise(batch, "pair_noise", *address)
            sigma = self._sigma(batch, address)
            if self.config.loss == "contrastive":
                # All images have the draws of the first, so that their errors differ by image and caption alone.
                noise, sigma = noise[:1].expand_as(noise), sigma[:1].expand_as(sigma)
            found.append(Point(mix(clean, noise, sigma), sigma, noise - clean))
        return found

    def _sigma(self, batch: Batch, address: tuple[int, ...]) -> Tensor:
        share = batch.draws.uniform("pair_sigma", 0.0, 1.0, *address)
        quantile = (address[0] + share) / self.config.draws
        section = self.config.sigma
        return grid_sigmas(section, quantile, self._grid) if section.type == "grid" else drawn_sigmas(section, quantile)

    @property
    def _grid(self) -> Tensor:
        """Sigmas of the type `grid`, from 1 to 0: those of the sampler or of the inversion."""
        return grid_of_points(self.config, self.grid, self.rollout)

    def _velocity(self, point: Point, conditioning: Conditioning) -> Tensor:
        return self.policy.velocity(point.tokens, point.sigma, conditioning, self.config.guidance_scale)

    def error(self, velocity: Tensor, point: Point) -> Tensor:
        """Compute the mean squared error at points in the space of the config, `[B]`."""
        factor = losses_of.space_factor(point.sigma, self.config.error_space)
        return factor.to(velocity) * matching_error(velocity, point.target)

    def losses(self, batch: Batch, collected: AskedErrors, part: int = 0) -> Iterator[Loss]:
        """Yield one loss for each draw, whose single call has all sides."""
        judged = self.judged(batch)
        for draw in range(self.config.draws):
            points = self.points(batch, judged, draw, collected.states)
            whole = Point(*(torch.cat(parts) for parts in zip(*points, strict=True)))
            text, matrix = _joined(judged.conditionings), None
            if self.config.loss == "contrastive":
                whole, text = crossed_of.cross(whole, text)
            velocity = self._velocity(whole, text)
            if self.config.loss == "contrastive":
                size = len(batch.prompts)
                matrix = self.error(velocity, whole).unflatten(0, (size, size))
                velocity = crossed_of.own_rows(velocity, size)
            yield partial(
                self._loss, batch, judged, collected, points, draw, velocity.chunk(len(points)), matrix=matrix
            )

    def _loss(
        self,
        batch: Batch,
        judged: Judged,
        asked: AskedErrors,
        points: list[Point],
        draw: int,
        velocities: tuple[Tensor, ...],
        matrix: Tensor | None = None,
    ) -> LossOutput:
        config = self.config
        errors = [self.error(velocity, at) for velocity, at in zip(velocities, points, strict=True)]
        gains = self._gains(errors, asked, draw)
        if batch.draws.update == 0 and config.reference_role is not None:
            check_first_gains(gains, errors, config.beta)
        if matrix is None:
            losses, metrics = self._preference(judged, points, velocities, errors, gains)
        else:
            losses, metrics = self._contrastive(judged, matrix)
        if config.weights == "confidence":
            losses = losses * judged.confidence.to(losses)
        preferred = [(sign > 0).to(error) * error for sign, error in zip(judged.signs, errors, strict=True)]
        losses = losses + config.sft * torch.stack(preferred).sum(dim=0)
        anchors, anchor_metrics = self._anchors(asked, draw, velocities)
        known = None if config.reference_role is None else gains
        own = preference_metrics(judged.signs, errors, known, points[0].sigma, self._slope * self._slopes(judged))
        metrics = {"loss/preference": losses.detach(), **own, **metrics, **anchor_metrics}
        return LossOutput((losses + anchors).mean() / config.draws, metrics)

    @property
    def _slope(self) -> float:
        """Derivative of the log-odds of a preference in the margin."""
        slopes = {"kto": self.config.beta, "mapo": self.config.beta * self.config.curvature / 2}
        return slopes.get(self.config.loss, self.config.beta / 2)

    def _slopes(self, judged: Judged) -> Tensor:
        """Return the factor of beta of each row, `[B]`."""
        factor = self.config.confidence_slope
        return torch.ones_like(judged.confidence) if factor is None else factor * judged.confidence

    def _contrastive(self, judged: Judged, matrix: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the contrastive loss of preferred images `[B]` from the errors of all images with all captions."""
        section = self.config.contrastive
        losses = crossed_of.contrastive(matrix, section.temperature, section.scale)
        return (judged.signs[0] > 0).to(losses) * losses, crossed_of.contrastive_metrics(matrix)

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
        return self._of_margin(margin, self._slopes(judged).to(margin)), metrics

    def _residuals(self, points: list[Point], velocities: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Compute the gradients of both terms of the margin in their velocities, up to a common factor."""
        preferred, other = (
            losses_of.space_factor(at.sigma, self.config.error_space).to(velocity)[:, None, None]
            * (velocity.detach() - at.target)
            for velocity, at in zip(velocities, points, strict=True)
        )
        return preferred, self.config.loser_weight * other

    def _of_margin(self, margin: Tensor, slopes: Tensor) -> Tensor:
        config = self.config
        logit = config.beta / 2 * slopes * margin
        if config.loss == "ipo":
            losses = losses_of.squared_margin(margin, config.beta)
        elif config.loss == "hinge":
            losses = losses_of.hinge(margin, config.margin)
        else:
            losses = losses_of.logistic(logit, config.label_smoothing)
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


def grid_of_points(config: PreferenceConfig, grid: SigmaGrid, rollout: RolloutConfig) -> Tensor:
    """Compute the sigmas of the type `grid`, from 1 to 0: those of the sampler or of the inversion, float64."""
    return grid(config.inversion.steps if config.coupling == "inverted" else rollout.num_steps, rollout.shift)


def check_first_gains(gains: list[Tensor], errors: list[Tensor], beta: float) -> None:
    """Check that policy and reference are equal before the first update.

    Args:
        gains: Gains of each side, `[B]`.
        errors: Errors of the policy of each side, `[B]`.
        beta: Slope of the loss.

    Raises:
        ValueError: If a gain is neither near 0 on the scale of the loss nor explained by rounding.
    """
    gain, error = torch.stack(gains).detach().abs(), torch.stack(errors).detach()
    wrong = (beta * gain >= LARGEST_FIRST_LOGIT) & (gain > ROUNDING * error)
    if wrong.any():
        raise ValueError(
            f"expected a reference that equals the policy before the first update, got errors that differ by up to"
            f" {float(gain.max()):.3g}; with model.lora.start_from the base model has no adapters: set"
            " algorithm.reference={ema: 1.0} to keep the weights that training begins with"
        )


def _joined(conditionings: tuple[Conditioning, ...]) -> Conditioning:
    return Conditioning(
        torch.cat([each.prompt_embeds for each in conditionings]),
        torch.cat([each.pooled_prompt_embeds for each in conditionings]),
    )
