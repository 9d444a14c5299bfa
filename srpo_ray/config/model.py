"""The text-to-image model that is tuned."""

from typing import Annotated, Literal

from pydantic import Field

from srpo_ray.config.base import Section

Shift = Annotated[float, Field(gt=0)] | Literal["resolution"]
"""Shift of a sigma grid; `resolution` is FLUX's own, which grows with the number of image tokens."""


class ModelConfig(Section):
    """Section `model`: a FLUX pipeline in the diffusers layout."""

    path: str = Field(default="small_world", min_length=1)
    """Folder or hub id of a `FluxPipeline`; `small_world` is the embedded tiny one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of the forward passes; the optimizer keeps float32 master weights."""
    resolution: int = Field(default=64, ge=16, multiple_of=16)
    """Height and width of the pictures in pixels."""
    max_sequence_length: int = Field(default=16, ge=1)
    """T5 tokens per prompt: 16 in the small world, 512 for FLUX.1-dev."""
    truncate_sigma: bool = False
    """Give the transformer sigmas cut to thousandths, as SRPO's released settings do."""
    gradient_checkpointing: bool = False
    """Recompute the transformer's activations in the backward pass to save memory."""


class RolloutConfig(Section):
    """Section `rollout`: how clean pictures are sampled, without gradient, before each update."""

    num_steps: int = Field(default=25, ge=1)
    """Euler steps of a rollout."""
    shift: Shift = 3.0
    """Shift of the sigma grid, `shift * t / (1 + (shift - 1) * t)`; `resolution` is FLUX's own."""
    guidance_scale: float = Field(default=1.0, ge=0)
    """Guidance embedding of the rollout's transformer calls."""
