"""Mask of text tokens, stored as the last channel of the text features, so that caches and batches carry it along."""

import torch
from torch import Tensor


def append_mask(features: Tensor, mask: Tensor) -> Tensor:
    """Append a mask `[..., L]`, 1 for a token and 0 for padding, to features `[..., L, D]`: `[..., L, D + 1]`."""
    return torch.cat([features, mask.unsqueeze(-1).to(features.dtype)], dim=-1)


def mask_of(features: Tensor) -> tuple[Tensor, Tensor]:
    """Split features `[B, L, D + 1]` into features `[B, L, D]` and their mask `[B, L]`, bool."""
    return features[..., :-1], features[..., -1] > 0.5
