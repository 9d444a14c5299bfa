"""Losses of forward-process methods at one point of each image, as functions of velocities, rewards and sigmas."""

import torch
from torch import Tensor

from srpo_ray.config.algorithms.awm import ErrorWeighting

FLOOR = 1e-10
"""Added to a matching error before a root, whose slope at 0 is infinite."""
LEAST_DISTANCE = 1e-5
"""Minimum of the mean absolute error by which DiffusionNFT divides."""


def matching_error(velocity: Tensor, target: Tensor) -> Tensor:
    """Compute the mean squared difference of two velocities `[B, N, C]` over the elements, `[B]`."""
    return (velocity - target).pow(2).mean(dim=(1, 2))


def weighted_error(error: Tensor, sigma: Tensor, weighting: ErrorWeighting, power: float = 0.25) -> Tensor:
    """Compute minus the estimated log-likelihood of an image from the matching error at one point.

    Args:
        error: Matching errors q, `[B]`.
        sigma: Sigmas s of the points, `[B]` in [0, 1].
        weighting: `plain` is q, `sigma` s q, `root` s sqrt(q), `huber` (s / p) (q^p - 0^p).
        power: Exponent p of `huber`, in (0, 1].

    Returns:
        `[B]`; 0 for an error of 0, with a finite slope.
    """
    sigma = sigma.to(error)
    if weighting == "plain":
        return error
    if weighting == "sigma":
        return sigma * error
    power = 0.5 if weighting == "root" else power
    scale = sigma if weighting == "root" else sigma / power
    return scale * ((error + FLOOR) ** power - FLOOR**power)


def advantage_weighted(minus_log: Tensor, advantages: Tensor) -> Tensor:
    """Compute the policy-gradient loss without a ratio: advantage times minus the log-likelihood, `[B]`."""
    return advantages * minus_log


def clipped_ratio(
    minus_log: Tensor, old_minus_log: Tensor, advantages: Tensor, clip_range: float
) -> tuple[Tensor, Tensor]:
    """Compute the clipped policy-gradient loss of AWM, arXiv 2509.25050.

    It is `max(-A * ratio, -A * clip(ratio, 1 - range, 1 + range))`.

    Args:
        minus_log: Minus the log-likelihoods under the present model, `[B]` with gradient.
        old_minus_log: The same under the model that sampled, `[B]`.
        advantages: Advantages A, `[B]`.
        clip_range: Clip range of the ratio around 1; outside, the gradient that moves it further is zero.

    Returns:
        Loss `[B]`, and 1 where the ratio is outside the range, `[B]`.
    """
    ratio = torch.exp(old_minus_log - minus_log)
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return torch.maximum(-advantages * ratio, -advantages * clipped), (ratio != clipped).to(ratio).detach()


def optimality(advantages: Tensor, limit: float) -> Tensor:
    """Map advantages in [-limit, limit] to rewards in [0, 1], as DiffusionNFT does: 1/2 for an average image."""
    return (0.5 + 0.5 * advantages / limit).clamp(0, 1)


def negative_aware(
    velocity: Tensor, old: Tensor, target: Tensor, sigma: Tensor, rewards: Tensor, strength: float, limit: float
) -> Tensor:
    """Compute the loss of DiffusionNFT, arXiv 2509.16117, `[B]`.

    With `v+ = b v + (1 - b) v_old` and `v- = (1 + b) v_old - b v`, it is `limit / b * (r L(v+) + (1 - r) L(v-))`.
    `L(w) = s <(w - target)^2> / <|w - target|>`, with a constant denominator, is the squared error of the clean image
    `x - s w`, divided by its absolute error. At v = v_old the gradient is that of the advantage times the matching
    error, times `s / <|v - target|>`.

    Args:
        velocity: Velocities v of the present model, `[B, N, C]` with gradient.
        old: Velocities of the old weights, `[B, N, C]`.
        target: Noise minus clean image, `[B, N, C]`.
        sigma: Sigmas s, `[B]`.
        rewards: Rewards r in [0, 1], `[B]`, see `optimality`.
        strength: Distance b of the positive and the negative policy from the old one, above 0.
        limit: Advantage whose reward is 1; it scales the loss.
    """
    positive = strength * velocity + (1 - strength) * old
    negative = (1 + strength) * old - strength * velocity
    rewards = rewards.to(velocity)
    losses = rewards * _clean_error(positive, target, sigma) + (1 - rewards) * _clean_error(negative, target, sigma)
    return limit / strength * losses


def _clean_error(velocity: Tensor, target: Tensor, sigma: Tensor) -> Tensor:
    distance = (velocity - target).abs().mean(dim=(1, 2)).detach().clamp(min=LEAST_DISTANCE)
    return sigma.to(velocity) * matching_error(velocity, target) / distance


def centred_regression(gain: Tensor, mean_gain: Tensor, centred_rewards: Tensor, strength: float) -> Tensor:
    """Compute the loss of centred reward distillation, arXiv 2603.14128: `(b (R - mean R) - (r - mean r))^2`, `[B]`.

    Args:
        gain: Implicit rewards R, the decreases of the matching error from the old weights to the policy, `[B]`.
        mean_gain: Means of R over the images of each prompt, `[B]`, constants.
        centred_rewards: Rewards r of the images minus their means over the prompt, `[B]`.
        strength: Factor b, above 0.
    """
    return (strength * (gain - mean_gain) - centred_rewards).pow(2)


def best_weights(rewards: Tensor, best: int) -> Tensor:
    """Compute equal weights for the images of the highest rewards, with a mean of 1 over each prompt.

    Args:
        rewards: `[P, G]`: G images of each prompt.
        best: Images of each prompt that have a weight, in [1, G]; among equal rewards those with the lower index.

    Returns:
        `[P, G]`; a prompt whose images have equal rewards has the weight 1 for each.
    """
    order = rewards.argsort(dim=1, descending=True, stable=True)
    weights = torch.zeros_like(rewards).scatter(1, order[:, :best], rewards.shape[1] / best)
    equal = rewards.amax(dim=1, keepdim=True) == rewards.amin(dim=1, keepdim=True)
    return torch.where(equal, torch.ones_like(weights), weights)


def softmax_weights(rewards: Tensor, temperature: float) -> Tensor:
    """Compute weights proportional to `exp(reward / temperature)`, with a mean of 1 over each prompt.

    Args:
        rewards: `[P, G]`: G images of each prompt.
        temperature: Difference of two rewards that multiplies the weight by e, above 0.
    """
    return rewards.shape[1] * torch.softmax(rewards / temperature, dim=1)
