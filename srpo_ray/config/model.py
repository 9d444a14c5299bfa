"""Config sections of the tuned text-to-image model and of its rollouts."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from srpo_ray.config.base import Section
from srpo_ray.config.home import HomePath
from srpo_ray.config.size import ImageSize, Resolution

Shift = Annotated[float, Field(gt=0)] | Literal["resolution", "scheduler"]
"""Shift of a sigma grid; `resolution` is FLUX.1-dev's, which increases with the number of image tokens, `scheduler`
takes the grid of the model's own scheduler."""

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
"""Ends of the names of the layers of FLUX.1 and SD3 that get LoRA adapters."""


BaseType = Literal["fp8", "int8", "nf4"]
"""Type of quantised weights."""
RolloutBaseType = Literal["fp8", "int8"]
"""Type of the copies of frozen weights in rollouts."""


class LoraConfig(Section):
    """LoRA adapters (arXiv 2106.09685), which are the only trainable parameters; the base model is frozen."""

    rank: int = Field(default=32, ge=1)
    """Rank of each adapter."""
    alpha: int | None = Field(default=None, ge=1)
    """Scale of the adapters: their output is multiplied by `alpha / rank`. Unset takes the rank, a factor of 1."""
    target_modules: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Ends of the names of the linear layers that get an adapter. Unset takes the attention and feed-forward layers of
    the blocks, whose names depend on the model family. The list of FLUX.1's layers, which resolved configs of earlier
    versions contain, is read as unset."""
    start_from: HomePath | None = Field(default=None, min_length=1)
    """LoRA that the run starts from (docs/models.md): a file of diffusers, kohya or ComfyUI, a folder with one, such as
    an export, or the folder of a checkpoint. Unset starts from new adapters, whose output is zero."""
    start_mode: Literal["continue", "merge"] = "continue"
    """Use of `start_from`. `continue` trains its adapters on; they must have this `rank` and these layers. `merge` adds
    them, of any rank, to the frozen weights and trains new adapters; the base model is then the merged one."""

    @property
    def scale(self) -> float:
        """Factor of the output of the adapters: `alpha / rank`."""
        return (self.alpha or self.rank) / self.rank

    @property
    def continued(self) -> str | None:
        """LoRA whose adapters are trained on; None if there is none."""
        return self.start_from if self.start_mode == "continue" else None

    @property
    def merged(self) -> str | None:
        """LoRA that is a part of the base model; None if there is none."""
        return self.start_from if self.start_mode == "merge" else None

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        if self.start_mode == "merge" and self.start_from is None:
            raise ValueError(
                "expected start_from with start_mode=merge, got none; set start_from to a LoRA, or remove start_mode"
            )
        return self

    @field_validator("target_modules")
    @classmethod
    def _unset_if_usual(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if value == FLUX_LINEAR_LAYERS else value

    @property
    def identity(self) -> dict[str, Any]:
        """JSON values that runs with the same adapters share.

        Unset layers are written as those of FLUX.1, because checkpoints of earlier versions have them so. A LoRA that
        was continued is not among them: the weights contain it.
        """
        values = self.model_dump(mode="json", exclude={"start_from", "start_mode"})
        values["target_modules"] = list(self.target_modules or FLUX_LINEAR_LAYERS)
        return values | ({"merged": self.merged} if self.merged else {})


class ModelConfig(Section):
    """Section `model`: a text-to-image flow model in the diffusers layout."""

    path: HomePath = Field(default="small_world", min_length=1)
    """Folder or hub id of a pipeline of FLUX.1 or another family (docs/models.md); `small_world` is the embedded
    one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of the forward passes; `bfloat16` is mixed precision, with float32 master weights in the optimizer."""
    base: BaseType | None = None
    """Type of the frozen weights under LoRA adapters: `nf4` stores 4 bits and a scale per 64 weights (package
    bitsandbytes), `int8` and `fp8` store 8 bits and a scale per row (package torchao). It applies to the linear layers
    of the transformer's blocks; computations, other layers and adapters keep `dtype`. Unset quantises nothing."""
    lora: LoraConfig | None = None
    """LoRA adapters to train instead of the whole transformer; unset trains all of it. `{}` takes the defaults."""
    resolution: Resolution | None = 64
    """Size of the images in pixels: one number for squares, or `[height, width]`. Each is a multiple of 16. Unset with
    `sizes`."""
    sizes: tuple[Resolution, ...] | None = Field(default=None, min_length=2)
    """Sizes of the images in one run (buckets), each as in `resolution`, instead of it: `[1024, [832, 1216]]`. A prompt
    has one of them, by a hash of its text and the run's `seed`, and a real image the one of the nearest aspect ratio.
    Needs forward passes of one prompt (`training.micro_batch_size: 1`) and `evaluation.resolution`."""
    max_sequence_length: int = Field(default=16, ge=1)
    """Tokens per prompt of the encoder with the longest texts (T5 in FLUX.1), those of a chat template included: 16 in
    the small world, 512 for FLUX.1-dev, FLUX.2 and Z-Image."""
    truncate_sigma: bool = False
    """Truncate the transformer's sigmas to multiples of 0.001, as in SRPO's released settings."""
    gradient_checkpointing: bool = False
    """Recompute the transformer's activations in the backward pass to save memory."""
    attention: Literal["native", "cudnn", "flash", "flash_3"] = "native"
    """Attention kernel of the transformer: torch's choice (`native`), cuDNN's, or the packages flash-attn 2 and 3. All
    but `native` need `dtype: bfloat16` and a GPU."""
    compile: bool = False
    """Compile the transformer's blocks with torch.compile, forward and backward; blocks of one class share the compiled
    code. At ZeRO stages 1 and 2, or with `training.gather_blocks`."""
    decoder: HomePath | None = Field(default=None, min_length=1)
    """Folder or hub id of diffusers' `AutoencoderTiny` for the same latents, such as madebyollin/taef1 for FLUX.1. It
    decodes the images that rewards score in training, with far less memory. Unset takes the pipeline's VAE, which
    evaluations and samples always use."""
    vae_checkpointing: bool = False
    """Recompute the activations of the VAE's decoder in the backward pass to save memory."""
    vae_channels_last: bool = False
    """Store the VAE's convolutions and their activations channel by channel last (NHWC), the memory format of a GPU's
    tensor cores. Images and gradients are the same up to rounding."""

    @property
    def all_sizes(self) -> tuple[ImageSize, ...]:
        """Heights and widths of the images in pixels: one, or those of `sizes`."""
        if self.sizes is not None:
            return tuple(map(ImageSize.of, self.sizes))
        assert self.resolution is not None, "a model has a resolution or sizes"
        return (ImageSize.of(self.resolution),)

    @property
    def size(self) -> ImageSize:
        """Height and width of the images in pixels; of several sizes, the one with the most pixels."""
        return max(self.all_sizes, key=lambda size: size.num_pixels)

    def with_size(self, resolution: "int | tuple[int, int]") -> "ModelConfig":
        """Return the section with another size, the only one."""
        return self.model_copy(update={"resolution": resolution, "sizes": None})

    @model_validator(mode="before")
    @classmethod
    def _unset_resolution_with_sizes(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("sizes") is not None and "resolution" not in values:
            return {**values, "resolution": None}
        return values

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if (self.resolution is None) == (self.sizes is None):
            found = "neither" if self.sizes is None else f"resolution={self.resolution} and sizes={list(self.sizes)}"
            raise ValueError(
                f"expected either resolution, for one size of images, or sizes, for several, got {found}; set"
                f" {'resolution' if self.sizes is None else 'resolution to null'}"
            )
        if self.sizes is not None and len(set(self.sizes)) < len(self.sizes):
            raise ValueError(f"expected sizes that differ, got {list(self.sizes)}; give each once")
        return self

    @model_validator(mode="after")
    def _check_base(self) -> Self:
        if self.base and self.lora is None:
            raise ValueError(
                f"expected lora with base={self.base}, got none; quantised weights have no gradient, so set lora to"
                " {} to train adapters, or remove base"
            )
        return self

    @model_validator(mode="after")
    def _check_attention(self) -> Self:
        if self.attention != "native" and self.dtype != "bfloat16":
            raise ValueError(
                f"expected dtype=bfloat16 with attention={self.attention}, whose kernel has no {self.dtype}, got"
                f" dtype={self.dtype}; set dtype to bfloat16, or attention to native"
            )
        return self


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
    """Number of Euler steps of a rollout."""
    shift: Shift = 3.0
    """Shift of the sigma grid, `shift * t / (1 + (shift - 1) * t)`; `resolution` is FLUX.1-dev's, `scheduler` takes the
    grid of the model's own scheduler. Evaluation and sampling use it too."""
    guidance_scale: float = Field(default=1.0, ge=0)
    """Guidance scale of the rollout's transformer calls."""
    cache_threshold: float | None = Field(default=None, gt=0)
    """Threshold of a first-block cache in rollouts, above 0: a sampler step runs only the transformer's first block for
    an image whose residual of that block has changed by less than this share since its last full step, and adds that
    step's residual of the other blocks. Unset runs all blocks. Evaluations and passes with gradient always run all."""
    base: RolloutBaseType | None = None
    """Type of a second copy of the frozen weights under LoRA adapters, for rollouts only: 8-bit numbers with a scale
    per output, of the blocks' linear layers that run on tokens. The layers' inputs are quantised at every call, with a
    scale per token. `fp8` (e4m3) needs a GPU of compute capability 8.9 or higher, or the CPU. Gradients, evaluations
    and samples use the weights of `model.dtype`. Unset makes no copy."""
    batch_size: int | None = Field(default=None, ge=1)
    """Maximum images in a transformer call of a rollout: a multiple of the images that a forward pass of
    `training.micro_batch_size` prompts samples. Rollouts keep no activations, so they fit in larger batches than
    gradient steps, which makes better use of a GPU. Unset samples each micro-batch by itself."""
