"""Losses of a random step in policy gradients, from its log-density, its mean and the advantages of its results."""

import math

import torch
from torch import Tensor

from srpo_ray.algorithms.base import LossOutput
from srpo_ray.algorithms.group_sampler import repeated
from srpo_ray.algorithms.moves import TrainedStep
from srpo_ray.algorithms.step_pairs import pair_losses
from srpo_ray.config.algorithms.surrogate import SurrogateSection
from srpo_ray.flow import log_density


def ppo_losses(ratio: Tensor, advantages: Tensor, clip_range: float) -> tuple[Tensor, Tensor]:
    """Compute `max(-A * ratio, -A * clip(ratio, 1 - range, 1 + range))`.

    Args:
        ratio: Probability ratio of each step, `[V]`.
        advantages: Advantages, `[V]`.
        clip_range: Clip range around 1.

    Returns:
        Losses `[V]`, and 1 where the ratio is outside the range `[V]`.

    Source: PPO, arXiv 1707.06347.
    """
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    losses = torch.maximum(-advantages * ratio, -advantages * clipped)
    return losses, (ratio.detach() != clipped.detach()).float()


def dppo_losses(ratio: Tensor, advantages: Tensor, divergence: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """Compute `-A * ratio`, and 0 for steps beyond the limit that would move further: where `A * (ratio - 1) > 0`.

    Args:
        ratio: Probability ratio of each step, `[V]`.
        advantages: Advantages, `[V]`.
        divergence: Divergence of the step from the sampling policy, `[V]`, see `divergences`.
        limit: Limit of the divergence.

    Returns:
        Losses `[V]`, and 1 where the step is removed `[V]`.

    Source: Flow-DPPO, arXiv 2606.11025.
    """
    removed = (divergence > limit) & (advantages * (ratio.detach() - 1) > 0)
    return torch.where(removed, torch.zeros_like(ratio), -advantages * ratio), removed.float()


def bounded(log_ratio: Tensor, clip_range: float) -> Tensor:
    """Clamp the logarithm of a ratio to that of the range `1 - clip_range` to `1 + clip_range`."""
    return log_ratio.clamp(math.log(max(1 - clip_range, 1e-12)), math.log(1 + clip_range))


def ranked_losses(
    log_ratio: Tensor, advantages: Tensor, weight: Tensor, beta: float, clip_range: float
) -> tuple[Tensor, Tensor]:
    """Compute a step's part of the likelihood of a ranking, whose gradient is that of the likelihood.

        loss = -advantage * beta * weight * log_ratio

    Args:
        log_ratio: Logarithm of the probability ratio to the initial model, `[V]`.
        advantages: `-d loss / d score` of each image, see `ranking.ranking_losses`, `[V]`.
        weight: Weight of the step in the score of its trajectory, `[V]`.
        beta: Factor of the scores.
        clip_range: Range around 1 outside of which a ratio has no gradient.

    Returns:
        Losses `[V]`, and 1 where the ratio is outside the range `[V]`.

    Source: Dense reward view, arXiv 2402.08265.
    """
    inside = bounded(log_ratio, clip_range)
    return -advantages * beta * weight * inside, (log_ratio != inside).detach().float()


def divergences(mean: Tensor, other: Tensor, std: Tensor) -> Tensor:
    """Compute the divergence of two normal distributions per element: `mean((m - m_other)^2) / (2 std^2)`, `[U]`.

    Args:
        mean: Means `[U, N, C]`.
        other: Means of the other model.
        std: Standard deviation of both, `[U, 1, 1]`.
    """
    return ((mean - other) ** 2 / (2 * std**2)).flatten(1).mean(1)


def weighted(log_ratio: Tensor, std: Tensor, config: SurrogateSection) -> Tensor:
    """Multiply the logarithm of a step's ratio by the weight of the step, see `step_weight`.

    Args:
        log_ratio: Difference of two log-densities, `[V]`.
        std: Standard deviation of the step, `[V, 1, 1]`.
        config: Options.
    """
    if config.step_weight == "density":
        return log_ratio
    spread = std.flatten()
    return log_ratio * (spread if config.step_weight == "std" else 2 * spread**2)


def surrogate_loss(
    config: SurrogateSection,
    step: TrainedStep,
    mean: Tensor,
    std: Tensor,
    length: Tensor,
    density: Tensor,
    share: float,
    images: int = 1,
) -> LossOutput:
    """Compute the loss of one trained step of all images of a micro-batch.

    Args:
        config: Options.
        step: The step with its advantages.
        mean: Mean of the step under the present model, `[U, N, 64]` with gradient.
        std: Standard deviation of the step, `[U, 1, 1]`.
        length: Length of the step in sigma, `[U]`, above 0.
        density: Log-probability of the step under the present model, `[V]` with gradient.
        share: Share of the batch's loss.
        images: Images of each prompt, which are consecutive; `pair` compares them.
    """
    assert step.advantages is not None, "losses come after `settle`"
    advantages = step.advantages.to(density)
    metrics = dict(step.metrics)
    if config.type == "pair":
        losses, clipped = _pair(config, step, std, density, advantages, images, metrics)
    elif config.type == "ranking":
        assert step.weight is not None, "a trajectory's score needs the weights of its steps"
        log_ratio = log_ratio_to_reference(config, step, std, density)
        losses, clipped = ranked_losses(log_ratio, advantages, step.weight.to(density), config.beta, config.clip_range)
    else:
        losses, clipped = _ratio_losses(config, step, mean, std, length, density, advantages, metrics)
    metrics["loss/policy"] = losses.detach()
    metrics["ratio/clip_fraction"] = clipped
    loss = losses.mean()
    if config.kl:
        assert step.reference is not None, "a divergence from the initial model needs its means"
        kl = divergences(mean, step.reference, std)
        metrics["loss/kl"] = kl.detach()
        loss = loss + config.kl * kl.mean()
    return LossOutput(share * loss, metrics)


def _ratio_losses(
    config: SurrogateSection,
    step: TrainedStep,
    mean: Tensor,
    std: Tensor,
    length: Tensor,
    density: Tensor,
    advantages: Tensor,
    metrics: dict[str, Tensor],
) -> tuple[Tensor, Tensor]:
    """Compute the losses `[V]` from the ratio to the sampling policy."""
    children = len(density) // len(mean)
    log_ratio = density - step.log_density
    if config.type == "ppo":
        return ppo_losses(
            torch.exp(weighted(log_ratio, repeated(std, children), config)), advantages, config.clip_range
        )
    assert step.mean is not None, "the loss needs the means of the sampling policy"
    divergence = divergences(mean, step.mean, std)
    metrics["ratio/divergence"] = divergence.detach()
    wide = repeated(divergence, children)
    if config.type == "dppo":
        ratio = torch.exp(weighted(log_ratio, repeated(std, children), config))
        return dppo_losses(ratio, advantages, wide.detach(), config.divergence_limit)
    # std * (log_ratio + divergence) is the mean of noise times shift of the mean, whose expectation is 0.
    ratio = torch.exp(repeated(std, children).flatten() * (log_ratio + wide))
    losses, clipped = ppo_losses(ratio, advantages, config.clip_range)
    return losses / repeated(length.to(losses), children), clipped


def _pair(
    config: SurrogateSection,
    step: TrainedStep,
    std: Tensor,
    density: Tensor,
    signs: Tensor,
    images: int,
    metrics: dict[str, Tensor],
) -> tuple[Tensor, Tensor]:
    """Compute the losses `[P]` of the pairs of P prompts, with the weight of the step."""
    log_ratio = log_ratio_to_reference(config, step, std, density)
    table = (log_ratio.reshape(-1, images), bounded(log_ratio, config.clip_range).reshape(-1, images))
    found = pair_losses(*table, signs.reshape(-1, images), config.beta)
    metrics["pair/margin"] = found.margins
    if step.weight is None:
        return found.losses, found.clipped
    # Both images of a pair are at the same step, as all images of the prompt are.
    return step.weight.to(density).reshape(-1, images)[:, 0] * found.losses, found.clipped


def log_ratio_to_reference(config: SurrogateSection, step: TrainedStep, std: Tensor, density: Tensor) -> Tensor:
    """Compute the weighted logarithm of the ratio of a step's probabilities to those under the initial model.

    Args:
        config: Options.
        step: The step with its means under the initial model.
        std: Standard deviation of the step, `[U, 1, 1]`.
        density: Log-probability of the step, `[V]`.

    Returns:
        `[V]`, see `step_weight`.
    """
    assert step.reference is not None, "a ratio to the initial model needs its means"
    children = len(density) // len(step.before)
    wide_std = repeated(std, children)
    reference = log_density(step.after, repeated(step.reference, children), wide_std)
    return weighted(density - reference, wide_std, config)
