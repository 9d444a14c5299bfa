"""Preference loss of each row of a micro-batch, from the errors of policy and reference at one point per image."""

from typing import NamedTuple

import torch
from torch import Tensor

from srpo_ray.algorithms import preference_losses as losses_of
from srpo_ray.algorithms.forward_process import Point
from srpo_ray.algorithms.preference_contrastive import contrastive, contrastive_metrics
from srpo_ray.algorithms.preference_sources import Judged
from srpo_ray.config.algorithms.preference import PreferenceConfig

LossAndMetrics = tuple[Tensor, dict[str, Tensor]]


class Compared(NamedTuple):
    """Policy and reference at one point of each image of a micro-batch; each value has an entry for each side."""

    points: list[Point]
    """Points of the images."""
    velocities: tuple[Tensor, ...]
    """Velocities of the policy `[B, N, C]`."""
    errors: list[Tensor]
    """Errors of the policy `[B]`."""
    gains: list[Tensor]
    """Errors of the reference, or 0 without one, less those of the policy, `[B]`."""
    matrix: Tensor | None = None
    """Errors of all images with all captions `[B, B]` with the loss `contrastive`."""


def slopes_of(config: PreferenceConfig, judged: Judged) -> Tensor:
    """Compute the derivative of the log-odds of a preference in its margin, `[B]`."""
    factor = {"kto": 1.0, "mapo": config.curvature / 2}.get(config.loss, 0.5)
    share = torch.ones_like(judged.confidence)
    if config.confidence_slope is not None:
        share = config.confidence_slope * judged.confidence
    return config.beta * factor * share


def row_losses(config: PreferenceConfig, judged: Judged, compared: Compared) -> LossAndMetrics:
    """Compute the loss of each row, `[B]`, with its weight, and metrics of the loss.

    Args:
        config: Section `algorithm`.
        judged: Images of the micro-batch.
        compared: Policy and reference at their points.
    """
    losses, metrics = _unweighted(config, judged, compared)
    if config.weights == "confidence":
        losses = losses * judged.confidence.to(losses)
    preferred = [(sign > 0).to(error) * error for sign, error in zip(judged.signs, compared.errors, strict=True)]
    losses = losses + config.sft * torch.stack(preferred).sum(dim=0)
    return (losses if judged.valid is None else losses * judged.valid), metrics


def _unweighted(config: PreferenceConfig, judged: Judged, compared: Compared) -> LossAndMetrics:
    errors = compared.errors
    liked = (judged.signs[0] > 0).to(errors[0])
    if config.loss == "sft":
        return liked * errors[0], {}
    if config.loss == "contrastive":
        assert compared.matrix is not None, "the loss contrastive has errors of all captions"
        logits = config.contrastive
        losses = contrastive(compared.matrix, logits.temperature, logits.scale)
        return liked * losses, contrastive_metrics(compared.matrix)
    if config.loss == "kto":
        return _desirability(config, judged, compared.gains)
    if config.loss == "mapo":
        scores = [losses_of.error_score(error, config.curvature) for error in errors]
        return losses_of.logistic(config.beta * (scores[0] - scores[1])), {}
    preferred, other = compared.gains
    metrics: dict[str, Tensor] = {}
    if config.safeguard is not None:
        share = losses_of.allowed_share(*_residuals(config, compared), config.safeguard)
        other, metrics = losses_of.scale_gradient(other, share), {"preference/allowed_share": share}
    return _of_margin(config, judged, preferred - config.loser_weight * other), metrics


def _desirability(config: PreferenceConfig, judged: Judged, gains: list[Tensor]) -> LossAndMetrics:
    # A prompt without a pair has two images in the pass, which nobody has judged.
    counted = [gain if judged.valid is None else gain[judged.valid] for gain in gains]
    baseline = losses_of.baseline_of(torch.stack(counted))
    parts = [
        losses_of.desirability(gain, sign.to(gain), config.beta, baseline)
        for gain, sign in zip(gains, judged.signs, strict=True)
    ]
    return torch.stack(parts).mean(dim=0), {"preference/baseline": baseline.expand(len(gains[0]))}


def _residuals(config: PreferenceConfig, compared: Compared) -> tuple[Tensor, Tensor]:
    """Compute the gradients of both terms of the margin in their velocities, up to a common factor."""
    preferred, other = (
        losses_of.space_factor(at.sigma, config.error_space).to(velocity)[:, None, None]
        * (velocity.detach() - at.target)
        for velocity, at in zip(compared.velocities, compared.points, strict=True)
    )
    return preferred, config.loser_weight * other


def _of_margin(config: PreferenceConfig, judged: Judged, margin: Tensor) -> Tensor:
    logit = slopes_of(config, judged).to(margin) * margin
    if config.loss == "ipo":
        losses = losses_of.squared_margin(margin, config.beta)
    elif config.loss == "hinge":
        losses = losses_of.hinge(margin, config.margin)
    else:
        soft = config.weights == "soft_labels"
        wrong = (1 - judged.confidence.to(logit)) / 2 if soft else config.label_smoothing
        losses = losses_of.logistic(logit, wrong)
    if config.doubt is None:
        return losses
    return losses * losses_of.trust(logit, config.doubt.temperature, config.doubt.scale)
