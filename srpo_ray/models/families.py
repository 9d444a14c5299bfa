"""Supported model families as plain data, so that a look-up does not import the model stack."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from srpo_ray.config.model import FLUX_LINEAR_LAYERS
from srpo_ray.models.paths import pipeline_file, resolve_path
from srpo_ray.models.prompt_texts import mistral_chat, plain_text, qwen3_chat, qwen_image21_text, qwen_image_text

_ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0")
_TEXT_ATTENTION = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out")


@dataclass(frozen=True)
class Family:
    """Family of models, identified by the pipeline class in their `model_index.json`; `registry.py` maps it to code."""

    pipeline: str
    """Class of the pipeline in diffusers."""
    transformer: str
    """Class of its transformer."""
    blocks: tuple[str, ...]
    """Classes of the transformer's repeated blocks, which are compiled one by one."""
    text_encoders: int
    """Number of text encoders: `text_encoder`, `text_encoder_2`, ..., each with a tokenizer."""
    tokenizer: str = "tokenizer"
    """Folder of the first tokenizer; those of the others are `tokenizer_2`, ..."""
    even_sigmas: bool = False
    """True if the pipeline passes even sigmas from 1 to 1/n to its scheduler; else the scheduler chooses them."""
    classifier_free: bool = False
    """True if guidance needs the features of the empty prompt (`FlowPolicy.empty_prompt`)."""
    clip_tokens: bool = False
    """True if the transformer reads the tokens of CLIP besides those of T5."""
    vae: str = "AutoencoderKL"
    """Class of its autoencoder."""
    video_vae: bool = False
    """True if the autoencoder has a frame axis; `model.vae_checkpointing` and `model.vae_channels_last` need none."""
    text_names: tuple[str, ...] = ("CLIP", "T5")
    """Names of the text encoders whose limits can truncate prompts, in the order of their tokenizers; the last one's
    limit is `model.max_sequence_length`."""
    prompt_text: Callable[[Any, str], str] = plain_text
    """Function of the last tokenizer and a prompt that returns the text which the encoder reads, without a system
    message whose tokens are not counted."""
    template_tokens: int = 0
    """Tokens of `prompt_text` that are not counted in `model.max_sequence_length`."""
    longest_text: int | None = None
    """Largest `model.max_sequence_length`; None without a limit."""
    unguided_text: str = ""
    """Text of the second prediction of classifier-free guidance, as the model's authors use it."""
    empirical_shift: bool = False
    """True if the shift of the sigmas depends on the number of steps too, as in FLUX.2."""
    distilled_mu: float | None = None
    """Exponent of the shift of the sigmas of the family's distilled models; None computes it as for the others."""
    masked_text: bool = False
    """True if the text features have a mask as their last channel."""
    equal_lengths: bool = True
    """True if all calls have equally many text tokens; else `model.compile` would compile a version for each length."""
    block_cache: bool = True
    """True if the blocks have the form that `rollout.cache_threshold` needs."""
    context_parallel: bool = True
    """True if workers can share the tokens of an image (`training.context_parallel`)."""
    attention_kernels: bool = True
    """True if `model.attention` can choose the kernel; else torch's attention is built in."""
    lora_layers: tuple[str, ...] = FLUX_LINEAR_LAYERS
    """Ends of the names of the attention and feed-forward layers of the blocks, which get LoRA adapters."""

    def empty_texts(self, *, contrasted: bool = False) -> list[str]:
        """List the texts whose features sampling needs besides the prompts': the text without a prompt, or none.

        Args:
            contrasted: True if the other model of a contrast reads the empty prompt too (`Contrast.text`).
        """
        return [self.unguided_text] if self.classifier_free or contrasted else []

    @property
    def tokenizers(self) -> list[str]:
        """Folders of the tokenizers; that of the encoder with the longest texts is the last."""
        return [self.tokenizer, *(f"tokenizer_{number}" for number in range(2, self.text_encoders + 1))]

    @property
    def text_parts(self) -> list[str]:
        """Folders of the pipeline that text features depend on."""
        encoders = ["text_encoder", *(f"text_encoder_{number}" for number in range(2, self.text_encoders + 1))]
        return [*self.tokenizers, *encoders]

    @property
    def parts(self) -> list[str]:
        """Files and folders of such a pipeline that a run reads."""
        models = [part for part in ("transformer", "vae", *self.text_parts) if part not in self.tokenizers]
        return [*(f"{model}/config.json" for model in models), *self.tokenizers]


FLUX = Family(
    pipeline="FluxPipeline",
    transformer="FluxTransformer2DModel",
    blocks=("FluxTransformerBlock", "FluxSingleTransformerBlock"),
    text_encoders=2,
    even_sigmas=True,
)
SD3 = Family(
    pipeline="StableDiffusion3Pipeline",
    transformer="SD3Transformer2DModel",
    blocks=("JointTransformerBlock",),
    text_encoders=3,
    classifier_free=True,
    clip_tokens=True,
    attention_kernels=False,
)
_FLUX2_LAYERS = (
    *_ATTENTION,
    *_TEXT_ATTENTION,
    *("ff.linear_in", "ff.linear_out", "ff_context.linear_in", "ff_context.linear_out"),
    *("attn.to_qkv_mlp_proj", "attn.to_out"),
)
FLUX2_KLEIN = Family(
    pipeline="Flux2KleinPipeline",
    transformer="Flux2Transformer2DModel",
    blocks=("Flux2TransformerBlock", "Flux2SingleTransformerBlock"),
    text_encoders=1,
    even_sigmas=True,
    classifier_free=True,
    vae="AutoencoderKLFlux2",
    text_names=("Qwen3",),
    prompt_text=qwen3_chat(enable_thinking=False),
    longest_text=512,
    empirical_shift=True,
    block_cache=False,
    context_parallel=False,
    lora_layers=_FLUX2_LAYERS,
)
FLUX2 = replace(
    FLUX2_KLEIN,
    pipeline="Flux2Pipeline",
    classifier_free=False,
    text_names=("Mistral",),
    prompt_text=mistral_chat,
)
Z_IMAGE = Family(
    pipeline="ZImagePipeline",
    transformer="ZImageTransformer2DModel",
    blocks=("ZImageTransformerBlock",),
    text_encoders=1,
    even_sigmas=True,
    classifier_free=True,
    text_names=("Qwen3",),
    prompt_text=qwen3_chat(enable_thinking=True),
    # Positions below 1536 have rotations, and an image's lie behind the text, which is padded to a multiple of 32.
    longest_text=1504,
    masked_text=True,
    block_cache=False,
    context_parallel=False,
    lora_layers=(
        *(f"attention.{layer}" for layer in ("to_q", "to_k", "to_v", "to_out.0")),
        *(f"feed_forward.{layer}" for layer in ("w1", "w2", "w3")),
    ),
)
QWEN_IMAGE = Family(
    pipeline="QwenImagePipeline",
    transformer="QwenImageTransformer2DModel",
    blocks=("QwenImageTransformerBlock",),
    text_encoders=1,
    even_sigmas=True,
    classifier_free=True,
    vae="AutoencoderKLQwenImage",
    video_vae=True,
    text_names=("Qwen2.5-VL",),
    prompt_text=qwen_image_text,
    template_tokens=34,
    longest_text=1024,
    unguided_text=" ",
    masked_text=True,
    block_cache=False,
    context_parallel=False,
    lora_layers=(
        *_ATTENTION,
        *_TEXT_ATTENTION,
        *(f"{stream}_mlp.{layer}" for stream in ("img", "txt") for layer in ("net.0.proj", "net.2")),
    ),
)
KREA2 = Family(
    pipeline="Krea2Pipeline",
    transformer="Krea2Transformer2DModel",
    blocks=("Krea2TransformerBlock",),
    text_encoders=1,
    even_sigmas=True,
    classifier_free=True,
    vae="AutoencoderKLQwenImage",
    video_vae=True,
    text_names=("Qwen3-VL",),
    prompt_text=qwen_image_text,
    template_tokens=34,
    distilled_mu=1.15,
    masked_text=True,
    block_cache=False,
    context_parallel=False,
    lora_layers=(*_ATTENTION, "attn.to_gate", *(f"ff.{layer}" for layer in ("gate", "up", "down"))),
)
QWEN_IMAGE21 = Family(
    pipeline="QwenImage21Pipeline",
    transformer="QwenImage21Transformer2DModel",
    blocks=("QwenImage21TransformerBlock",),
    text_encoders=1,
    tokenizer="processor",
    even_sigmas=True,
    classifier_free=True,
    vae="AutoencoderKLQwenImage21",
    video_vae=True,
    text_names=("Qwen3-VL",),
    prompt_text=qwen_image21_text,
    # The table of rotations has the positions up to 8191, and the image is at the one behind the text.
    longest_text=8191,
    unguided_text=" ",
    masked_text=True,
    equal_lengths=False,
    block_cache=False,
    context_parallel=False,
    lora_layers=(*_ATTENTION, *(f"img_mlp.{layer}" for layer in ("proj", "gate_layer", "out"))),
)
FAMILIES = {
    family.pipeline: family for family in (FLUX, SD3, FLUX2_KLEIN, FLUX2, Z_IMAGE, QWEN_IMAGE, KREA2, QWEN_IMAGE21)
}


def lora_layers(transformer: str) -> tuple[str, ...]:
    """Return the ends of the names of the layers that get LoRA adapters in a transformer of this class."""
    return next(family.lora_layers for family in FAMILIES.values() if family.transformer == transformer)


def family_of(path: str) -> Family:
    """Return the family of a pipeline.

    Args:
        path: Folder or hub id, or `small_world`.

    Raises:
        ValueError: If the path has no readable pipeline, or its class is not supported.
    """
    file = pipeline_file(resolve_path(path), "model_index.json")
    try:
        name = json.loads(file.read_text(encoding="utf-8")).get("_class_name")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise ValueError(f"model.path: expected a JSON object in {file}, got {error}; save the model again") from error
    if name not in FAMILIES:
        raise ValueError(
            f"model.path: expected a pipeline of class {' or '.join(FAMILIES)}, got {name!r} in {file}; choose another"
            " model, or add an adapter for its family (docs/models.md)"
        )
    return FAMILIES[name]
