"""Sections `model` and `rollout`: the tuned text-to-image model and its sampler."""

from typing import Annotated, Literal

from pydantic import Field

from srpo_ray.config.base import Section

Shift = Annotated[float, Field(gt=0)] | Literal["resolution", "scheduler"]
"""Shift of a sigma grid; `resolution` is FLUX.1-dev's, which grows with the number of image tokens; `scheduler` is the
grid of the model's scheduler."""

FLUX_LINEAR_LAYERS = (
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
    "ff.net.0.proj",
    "ff.net.2",
    "ff_context.net.0.proj",
    "ff_context.net.2",
)


class LoraConfig(Section):
    """LoRA adapters (arXiv 2106.09685): only the adapters are trained, and the base model is frozen."""

    rank: int = Field(default=32, ge=1)
    """Rank of each adapter, at least 1."""
    alpha: int | None = Field(default=None, ge=1)
    """Numerator of the factor `alpha / rank` of the adapter's output; unset equals the rank, for a factor of 1."""
    target_modules: tuple[str, ...] = Field(default=FLUX_LINEAR_LAYERS, min_length=1)
    """Linear layers with an adapter, as suffixes of their names; by default attention and feed-forward layers."""


class ModelConfig(Section):
    """Section `model`: a text-to-image flow model in the diffusers layout."""

    path: str = Field(default="small_world", min_length=1)
    """Folder or hub id of a pipeline, FLUX.1 or another family (docs/models.md); `small_world` is embedded."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of the forward passes. `bfloat16` is mixed precision: the optimizer keeps float32 master weights."""
    lora: LoraConfig | None = None
    """Train LoRA adapters; unset trains the whole transformer. `{}` uses the defaults."""
    resolution: int = Field(default=64, ge=16, multiple_of=16)
    """Height and width of the images in pixels."""
    max_sequence_length: int = Field(default=16, ge=1)
    """T5 tokens per prompt: 16 for the small world, 512 for FLUX.1-dev."""
    truncate_sigma: bool = False
    """Truncate the transformer's sigmas to thousandths, as in SRPO's released settings."""
    gradient_checkpointing: bool = False
    """Save memory: recompute the transformer's activations in the backward pass."""
    attention: Literal["native", "cudnn", "flash", "flash_3"] = "native"
    """Attention kernel of the transformer: `native` (torch's choice), cuDNN, or the packages flash-attn 2 and 3."""
    compile: bool = False
    """Compile the transformer's blocks with torch.compile, once per kind of block."""
    vae_checkpointing: bool = False
    """Save memory: recompute the activations of the VAE's decoder in the backward pass."""


class RolloutConfig(Section):
    """Section `rollout`: sampling of an update's clean images, without gradient."""

    source: Literal["policy", "base_model"] = "policy"
    """Model that samples the rollouts. `policy`: the trained model with its weights at that update (on-policy).
    `base_model`: the model before training, which samples them once, before the first update, into `cache` in
    `run_root`; runs with the same model, sampler and prompts, such as the trials of a sweep, share them."""
    reuse: int = Field(default=1, ge=1)
    """Updates per batch of rollouts, each with new landing points, noise and control words; 1 samples new rollouts for
    every update. Larger values only for algorithms that need clean images only (`srpo`, `direct_align`)."""
    images_per_prompt: int = Field(default=1, ge=1)
    """Images of the base model per prompt, with `source: base_model`. Each pass over the prompts uses the next image,
    and starts again with the first after the last."""
    seed: int = 0
    """Seed of the base model's images, independent of the run's `seed`, so that runs with other seeds share them."""

    num_steps: int = Field(default=25, ge=1)
    """Euler steps of the sampler in a rollout."""
    shift: Shift = 3.0
    """Shift of the sigma grid, `shift * t / (1 + (shift - 1) * t)`; `resolution` is FLUX.1-dev's shift, `scheduler` the
    grid of the model's scheduler. Evaluations and samples use the same grid."""
    guidance_scale: float = Field(default=1.0, ge=0)
    """Guidance embedding of the transformer in rollouts."""
