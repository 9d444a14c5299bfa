"""The text-to-image model that is tuned."""

from typing import Annotated, Literal

from pydantic import Field

from srpo_ray.config.base import Section

Shift = Annotated[float, Field(gt=0)] | Literal["resolution", "scheduler"]
"""Shift of a sigma grid; `resolution` is FLUX.1-dev's, which grows with the number of image tokens, `scheduler` takes
the grid of the model's own scheduler."""

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
    """Low-rank adapters (arXiv 2106.09685): they alone are trained, the model itself stays as it is."""

    rank: int = Field(default=32, ge=1)
    """Inner size of each adapter."""
    alpha: int | None = Field(default=None, ge=1)
    """The adapter's output is multiplied by `alpha / rank`; unset takes the rank, so by 1."""
    target_modules: tuple[str, ...] = Field(default=FLUX_LINEAR_LAYERS, min_length=1)
    """Linear layers that get an adapter, by the end of their names; by default attention and feed-forward."""


class ModelConfig(Section):
    """Section `model`: a text-to-image flow model in the diffusers layout."""

    path: str = Field(default="small_world", min_length=1)
    """Folder or hub id of a pipeline, FLUX.1 or another family (docs/models.md); `small_world` is the embedded one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of the forward passes; the optimizer keeps float32 master weights."""
    lora: LoraConfig | None = None
    """Train adapters and not the whole transformer; unset trains all of it. `{}` takes the defaults."""
    resolution: int = Field(default=64, ge=16, multiple_of=16)
    """Height and width of the images in pixels."""
    max_sequence_length: int = Field(default=16, ge=1)
    """T5 tokens per prompt: 16 in the small world, 512 for FLUX.1-dev."""
    truncate_sigma: bool = False
    """Give the transformer sigmas cut to thousandths, as SRPO's released settings do."""
    gradient_checkpointing: bool = False
    """Recompute the transformer's activations in the backward pass to save memory."""
    attention: Literal["native", "cudnn", "flash", "flash_3"] = "native"
    """Kernel of the transformer's attention: torch chooses (`native`), cuDNN's, or the packages flash-attn 2 and 3."""
    compile: bool = False
    """Compile the transformer's blocks with torch.compile, one kind of block at a time."""
    vae_checkpointing: bool = False
    """Recompute the activations of the VAE's decoder in the backward pass to save memory."""


class RolloutConfig(Section):
    """Section `rollout`: sampling of the clean images that an update starts from, without gradient."""

    source: Literal["policy", "base_model"] = "policy"
    """Model that samples the images. `policy`: the trained model with its weights at that update (on-policy).
    `base_model`: the model before training, which samples them once, before the first update, into `cache` in
    `run_root`; runs that have model, sampler and prompts in common, such as the trials of a sweep, share them."""
    reuse: int = Field(default=1, ge=1)
    """Updates that are made on each batch of rollouts, each with new landing points, noise and control words; 1 samples
    anew for every update. Only for algorithms that start from clean images alone (`srpo`, `direct_align`)."""
    images_per_prompt: int = Field(default=1, ge=1)
    """Images of the base model for each prompt, with `source: base_model`: one for each pass over the prompts, from the
    first again when all are used."""
    seed: int = 0
    """Seed of the base model's images, apart from the run's `seed`, so that runs with other seeds share them."""

    num_steps: int = Field(default=25, ge=1)
    """Euler steps of a rollout."""
    shift: Shift = 3.0
    """Shift of the sigma grid, `shift * t / (1 + (shift - 1) * t)`; `resolution` is FLUX.1-dev's, `scheduler` the grid
    of the model's own scheduler. Evaluations and samples are drawn with it, too."""
    guidance_scale: float = Field(default=1.0, ge=0)
    """Guidance embedding of the rollout's transformer calls."""
