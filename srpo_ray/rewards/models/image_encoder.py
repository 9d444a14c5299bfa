"""Image encoders of reward models, in float32 or bfloat16; text encoders and heads always compute in float32.

The features of a text are computed once and cached, so a faster text encoder would gain nothing. A relative query
subtracts the features or scores of two similar texts, which would magnify their rounding.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize as unit

from srpo_ray.rewards.models.pretrained import pooled

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Data types by their name in the config."""


class ClipImageEncoder(nn.Module):
    """Image encoder of a `CLIPModel` or `SiglipModel` of transformers, with the projection of its features, if any."""

    def __init__(self, model: Any) -> None:
        """Take the image encoder out of a model, with which it shares its weights."""
        super().__init__()
        self.vision_model = model.vision_model
        self.visual_projection = getattr(model, "visual_projection", None)


def clip_image_features(model: Any, pixels: Tensor) -> Tensor:
    """Compute the unit image features `[B, D]` of a model with the interface of open_clip.

    Args:
        model: The model; `model.visual` computes in its own data type, which may differ from that of the text encoder.
        pixels: Normalised images `[B, 3, H, W]`.

    Returns:
        Features in the data type of the text encoder.
    """
    return unit(model.encode_image(_as_read_by(model.visual, pixels)).to(model.logit_scale.dtype), dim=-1)


def pooled_image_features(backbone: Any, pixels: Tensor) -> Tensor:
    """Compute the unit image features `[B, D]` of a model of transformers, in the data type of `pixels`."""
    features = pooled(backbone.get_image_features(pixel_values=_as_read_by(backbone.vision_model, pixels)))
    return unit(features.to(pixels.dtype), dim=-1)


def _as_read_by(encoder: nn.Module, pixels: Tensor) -> Tensor:
    weight = next(encoder.parameters())
    return pixels.to(weight.device, weight.dtype)
