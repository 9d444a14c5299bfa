"""Metrics of preferences: errors and gains of preferred and other images, and margins of pairs by level of noise."""

from collections.abc import Sequence

import torch
from torch import Tensor

BANDS = ("clean", "middle", "noisy")
"""Thirds of the range of sigma, from 0 on."""
SATURATED = 5.0
"""Absolute log-odds of a preference above which its gradient is below 1 % of the largest."""


def preference_metrics(
    signs: Sequence[Tensor],
    errors: Sequence[Tensor],
    gains: Sequence[Tensor] | None,
    sigma: Tensor,
    slope: Tensor,
    valid: Tensor | None = None,
) -> dict[str, Tensor]:
    """Compute the metrics of one point of each image.

    Args:
        signs: 1 for preferred or liked images, -1 for others, `[B]` of each side.
        errors: Errors of the policy, `[B]` of each side.
        gains: Gains over the reference, `[B]` of each side; None without a reference.
        sigma: Sigmas of the first side, `[B]`.
        slope: Derivative of the log-odds of a preference in the margin, `[B]`.
        valid: True for rows that count, `[B]`; None counts all.

    Returns:
        Metric name -> values, possibly none, of the images or pairs that it is about.
    """
    if valid is not None:
        signs, errors = [each[valid] for each in signs], [each[valid] for each in errors]
        gains, sigma = gains and [each[valid] for each in gains], sigma.to(valid.device)[valid]
        slope = slope[valid]
    sign, error = torch.cat(list(signs)), torch.cat([each.detach() for each in errors])
    liked = sign > 0
    # All names exist in every micro-batch, as workers add up their values by name.
    metrics = {"error/preferred": error[liked], "error/other": error[~liked]}
    gain = None
    if gains is not None:
        gain = torch.cat([each.detach() for each in gains])
        metrics |= {"gain/preferred": gain[liked], "gain/other": gain[~liked]}
    if len(errors) == 1:
        return metrics
    first, second = (gain if gain is not None else -error).chunk(2)
    margin = first - second
    pairs = {"margin": margin, "accuracy": (margin > 0).to(margin)}
    band = (sigma.to(margin) * len(BANDS)).long().clamp(max=len(BANDS) - 1)
    for index, name in enumerate(BANDS):
        metrics |= {f"preference/{metric}/{name}": values[band == index] for metric, values in pairs.items()}
    saturated = ((slope.to(margin) * margin).abs() > SATURATED).to(margin)
    return (
        metrics
        | {f"preference/{metric}": values for metric, values in pairs.items()}
        | {"preference/saturated": saturated}
    )
