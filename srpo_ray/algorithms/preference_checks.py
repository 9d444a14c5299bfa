"""Check that the reference of preferences is the policy before the first update."""

import torch
from torch import Tensor

LARGEST_FIRST_LOGIT = 0.005
"""Limit of the log-odds `slope * |gain|` in the first update, where policy and reference are equal up to rounding."""
ROUNDING = 1e-3
"""Relative difference of two errors that rounding to 16 bits may explain."""


def check_first_gains(gains: list[Tensor], scales: list[Tensor], slopes: Tensor) -> None:
    """Check that policy and reference are equal before the first update.

    Args:
        gains: Gains of each side, `[B]`.
        scales: Size of the errors of each side, `[B]`.
        slopes: Derivative of the log-odds of a preference in the margin, `[B]`; rows may differ in their confidence;
            beta / 2 for `ipo` and `hinge`, which have no log-odds.

    Raises:
        ValueError: If a gain is not finite, or neither near 0 on the scale of its row's loss nor explained by rounding.
    """
    gain, scale = torch.stack(gains).detach().abs(), torch.stack(scales).detach()
    if not gain.isfinite().all():
        raise ValueError(
            "expected finite errors of policy and reference before the first update, got nan or infinity; check the"
            " weights of model.path, and whether model.dtype is wide enough for this model"
        )
    wrong = (slopes.to(gain) * gain >= LARGEST_FIRST_LOGIT) & (gain > ROUNDING * scale)
    if wrong.any():
        raise ValueError(
            f"expected a reference that equals the policy before the first update, got errors that differ by up to"
            f" {float(gain[wrong].max()):.3g}; with model.lora.start_from the base model has no adapters: set"
            " algorithm.reference={ema: 1.0} to keep the weights that training begins with"
        )
