"""Losses of preferences as functions of the errors of judged images: no policy, no draws.

An image has the error `e` of the policy and `r` of the reference at one point, and the gain `g = r - e`. A pair has the
margin `m = g_preferred - g_other`.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from srpo_ray.config.algorithms.preference_options import ErrorSpace


def space_factor(sigma: Tensor, space: ErrorSpace) -> Tensor:
    """Compute the factor from the error of the velocity to that of another quantity, `[B]`.

    The velocity predicts the clean image as `x - s v` and the noise as `x + (1 - s) v`, so their errors are `s^2` and
    `(1 - s)^2` times that of the velocity.

    Args:
        sigma: Sigmas s of the points, `[B]` in [0, 1].
        space: Quantity whose squared error is wanted.
    """
    if space == "velocity":
        return torch.ones_like(sigma)
    return (sigma if space == "image" else 1 - sigma) ** 2


def logistic(logit: Tensor, smoothing: float | Tensor = 0.0) -> Tensor:
    """Compute minus the log-likelihood of a preference of which a share is wrong, `[B]`.

    It is `-(1 - p) log sigmoid(z) - p log sigmoid(-z)`.

    Args:
        logit: z, log-odds of the preference, `[B]`.
        smoothing: Assumed share p of wrong preferences, in [0, 0.5], or that of each pair `[B]`.

    Source: Diffusion-DPO, arXiv 2311.12908; smoothing: arXiv 2403.00409.
    """
    return -(1 - smoothing) * logsigmoid(logit) - smoothing * logsigmoid(-logit)


def squared_margin(margin: Tensor, beta: float) -> Tensor:
    """Compute the loss of IPO, arXiv 2310.12036: the squared distance of the margin to `1 / (2 beta)`, `[B]`."""
    return (margin - 1 / (2 * beta)).pow(2)


def hinge(margin: Tensor, limit: float) -> Tensor:
    """Compute `max(0, limit - margin)`, `[B]`: no gradient from the limit on."""
    return (limit - margin).clamp(min=0)


def baseline_of(gains: Tensor) -> Tensor:
    """Compute the baseline of KTO, a constant: the mean of the gains of a forward pass, at least 0; 0 without gains."""
    return gains.detach().mean().clamp(min=0) if gains.numel() else gains.new_zeros(())


def desirability(gain: Tensor, sign: Tensor, beta: float, baseline: Tensor) -> Tensor:
    """Compute the loss of Diffusion-KTO, arXiv 2404.04465: `1 - sigmoid(sign beta (gain - baseline))`, `[B]`.

    Args:
        gain: Gains, `[B]`.
        sign: 1 for liked images, -1 for others, `[B]`.
        beta: Slope, above 0.
        baseline: Gain at which the loss is 1/2, a scalar.
    """
    return 1 - torch.sigmoid(sign * beta * (gain - baseline))


def error_score(error: Tensor, curvature: float) -> Tensor:
    """Compute `a e / (exp(a e) - 1)` of the errors e, `[B]`: 1 at e = 0, falling by a / 2 per unit there.

    Args:
        error: Errors, `[B]`, at least 0.
        curvature: Constant a, above 0.

    Source: MaPO, arXiv 2406.06424.
    """
    scaled = curvature * error
    # The quotient and its slope at 0 are 0 / 0.
    small = scaled < 1e-4
    safe = torch.where(small, torch.ones_like(scaled), scaled)
    return torch.where(small, 1 - scaled / 2 + scaled.pow(2) / 12, safe / torch.expm1(safe))


def scale_gradient(values: Tensor, factor: Tensor) -> Tensor:
    """Return the values with their gradient times a factor, `[B]`."""
    return values.detach() + factor * (values - values.detach())


def allowed_share(preferred: Tensor, other: Tensor, share: float) -> Tensor:
    """Compute the share of the gradient of other images that leaves preferred images a part of their descent, `[B]`.

    With the gradients G of both errors in the velocities, it is the largest factor f in [0, 1] with
    `(-G_preferred + f G_other) . G_preferred <= -share |G_preferred|^2`.

    Args:
        preferred: Gradients of the errors of preferred images in their velocities, `[B, N, C]`, up to a factor that
            both sides share.
        other: The same of the other images.
        share: Part of the descent that is left, in [0, 1].

    Source: SDPO, arXiv 2511.03317, whose release computes one factor for a micro-batch.
    """
    preferred, other = preferred.detach(), other.detach()
    product, square = (preferred * other).sum(dim=(1, 2)), preferred.pow(2).sum(dim=(1, 2))
    limit = (1 - share) * square / product.clamp(min=torch.finfo(product.dtype).tiny)
    return torch.where(product > 0, limit.clamp(max=1), torch.ones_like(product))


def trust(logit: Tensor, temperature: float, scale: float) -> Tensor:
    """Compute the weight of a pair from the policy's own doubt in its preference, a constant, `[B]`.

    It is `1 / (1 + temperature * (1 - sigmoid(scale * z)))`.

    Args:
        logit: z, log-odds of the preference under the policy, `[B]`.
        temperature: Strength, at least 0; 0 has the weight 1.
        scale: Factor of z.
    """
    return 1 / (1 + temperature * torch.sigmoid(-scale * logit.detach()))
