"""The classes of each family at tiny size, most with random weights, saved in the layout of diffusers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    AutoencoderKLQwenImage21,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    Krea2Pipeline,
    Krea2Transformer2DModel,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import pre_tokenizers
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLModel,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from srpo_ray.small_world.weights import WEIGHTS
from tests.helpers.models.tiny_sd3 import save_tiny_sd3

WIDTH = 16
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{{ message.content[0].text }}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"
)
_TEXT: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
_VAE: dict[str, Any] = {
    "block_out_channels": (8, 8, 8, 8),
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
    "sample_size": 64,
}


def tiny_tokenizer() -> Any:
    """A tokenizer of single bytes with Qwen's special tokens and a chat template."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*letters, "<|endoftext|>", "<|im_start|>", "<|im_end|>"])}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[])
    tokenizer.chat_template = _CHAT
    return tokenizer


def _flux2_vae() -> AutoencoderKLFlux2:
    vae = AutoencoderKLFlux2(**_VAE)
    # Statistics other than 0 and 1, so that a family that ignores them draws another image.
    statistics = dict(vae.bn.named_buffers())
    statistics["running_mean"].normal_()
    statistics["running_var"].uniform_(0.5, 2)
    return vae


def _flux2_transformer(*, layers: int, guidance: bool) -> Flux2Transformer2DModel:
    return Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=layers * WIDTH,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance,
    )


def _dynamic(**settings: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0, **settings)


def save_tiny_flux2_klein(folder: Path, *, distilled: bool = False) -> Path:
    """A pipeline of FLUX.2 klein. The encoder has the 28 layers of which the pipeline reads the 9th, 18th and 27th."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    Flux2KleinPipeline(
        scheduler=_dynamic(),
        vae=_flux2_vae(),
        text_encoder=Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), num_hidden_layers=28, **_TEXT)),
        tokenizer=tokenizer,
        transformer=_flux2_transformer(layers=3, guidance=False),
        is_distilled=distilled,
    ).save_pretrained(folder)
    return folder


def save_tiny_flux2(folder: Path) -> Path:
    """A pipeline of FLUX.2 dev, whose encoder reads the 10th, 20th and 30th of its layers."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    vision = {"model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = Mistral3Config(
        text_config={"model_type": "mistral", "vocab_size": len(tokenizer), "num_hidden_layers": 31, **_TEXT},
        vision_config={**vision, "num_attention_heads": 2, "image_size": 16, "patch_size": 16},
    )
    Flux2Pipeline(
        scheduler=_dynamic(),
        vae=_flux2_vae(),
        text_encoder=Mistral3ForConditionalGeneration(config),
        tokenizer=tokenizer,
        transformer=_flux2_transformer(layers=3, guidance=True),
    ).save_pretrained(folder)
    return folder


def save_tiny_z_image(folder: Path) -> Path:
    """A pipeline of Z-Image with the small world's autoencoder."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    transformer = ZImageTransformer2DModel(
        in_channels=16,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 6, 6],
        axes_lens=[256, 32, 32],
    )
    torch.nn.init.normal_(transformer.x_pad_token)
    torch.nn.init.normal_(transformer.cap_pad_token)
    ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=AutoencoderKL.from_pretrained(WEIGHTS / "flux", subfolder="vae"),
        text_encoder=Qwen3Model(Qwen3Config(vocab_size=len(tokenizer), num_hidden_layers=2, **_TEXT)),
        tokenizer=tokenizer,
        transformer=transformer,
    ).save_pretrained(folder)
    return folder


def _qwen_image_vae() -> AutoencoderKLQwenImage:
    return AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, num_res_blocks=1, latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 0.8, 2.0, 1.0]
    )


def save_tiny_qwen_image(folder: Path) -> Path:
    """A pipeline of Qwen-Image, with the terminal shift of its scheduler."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    text = {key: value for key, value in _TEXT.items() if key != "head_dim"}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = Qwen2_5_VLConfig(
        text_config={"vocab_size": len(tokenizer), "num_hidden_layers": 2, "rope_parameters": rope, **text},
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
        },
    )
    QwenImagePipeline(
        scheduler=_dynamic(base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02),
        vae=_qwen_image_vae(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=tokenizer,
        transformer=QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 6, 6),
        ),
    ).save_pretrained(folder)
    return folder


def _qwen3_vl(vocabulary: int, layers: int) -> Qwen3VLConfig:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0, "mrope_interleaved": True}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "deepstack_visual_indexes": [0]}
    return Qwen3VLConfig(
        text_config={"vocab_size": vocabulary, "num_hidden_layers": layers, "rope_parameters": rope, **_TEXT},
        vision_config={**vision, "out_hidden_size": WIDTH, "num_position_embeddings": 16},
    )


def save_tiny_krea2(folder: Path, *, distilled: bool = False) -> Path:
    """A pipeline of Krea 2, whose transformer reads three layers of the encoder."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    transformer = Krea2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        timestep_embed_dim=32,
        text_hidden_dim=WIDTH,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=1,
        text_intermediate_size=32,
        axes_dims_rope=(4, 6, 6),
    )
    # Scales and shifts are zero at first, and a family that ignores them would draw the same image.
    for name, parameter in transformer.named_parameters():
        if name.endswith("scale_shift_table") or "norm" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    Krea2Pipeline(
        scheduler=_dynamic(base_shift=0.5, max_shift=1.15, max_image_seq_len=6400),
        vae=_qwen_image_vae(),
        text_encoder=Qwen3VLModel(_qwen3_vl(len(tokenizer), 4)),
        tokenizer=tokenizer,
        transformer=transformer,
        text_encoder_select_layers=(1, 2, 4),
        is_distilled=distilled,
    ).save_pretrained(folder)
    return folder


def save_tiny_qwen_image21(folder: Path, *, sample_sigmas: list[float] | None = None) -> Path:
    """A pipeline of Qwen-Image-2.1, with a fourth channel in its autoencoder; fixed sigmas are those of Turbo."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"], special_tokens=True)
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessor(), tokenizer, Qwen3VLVideoProcessor(), chat_template=tokenizer.chat_template
    )
    encoder = Qwen3VLForConditionalGeneration(_qwen3_vl(len(tokenizer), 2))
    # The transformer reads features from before this norm, so a family that reads them behind it draws other images.
    torch.nn.init.uniform_(encoder.model.language_model.norm.weight, 0.5, 2)
    transformer = QwenImage21Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    torch.nn.init.normal_(transformer.txt_in.text_norm.weight, std=0.1)
    dynamic = _dynamic(base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02)
    QwenImage21Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler() if sample_sigmas else dynamic,
        vae=AutoencoderKLQwenImage21(
            base_dim=8,
            decoder_base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 0.8, 2.0, 1.0],
        ),
        text_encoder=encoder,
        processor=processor,
        transformer=transformer,
        sample_sigmas=sample_sigmas,
    ).save_pretrained(folder)
    return folder


def _small_world(_folder: Path) -> Path:
    return WEIGHTS / "flux"


SAVERS: dict[str, Callable[[Path], Path]] = {
    "flux": _small_world,
    "sd3": save_tiny_sd3,
    "flux2_klein": save_tiny_flux2_klein,
    "flux2": save_tiny_flux2,
    "z_image": save_tiny_z_image,
    "qwen_image": save_tiny_qwen_image,
    "krea2": save_tiny_krea2,
    "qwen_image21": save_tiny_qwen_image21,
}
"""Name of a family -> function that saves its tiny pipeline in a folder, and returns the pipeline's path."""
LENGTHS = {"flux": 16, "sd3": 16, "flux2_klein": 96, "flux2": 96, "z_image": 96, "qwen_image": 192, "krea2": 192}
LENGTHS |= {"qwen_image21": 192}
"""`model.max_sequence_length` of each, which no prompt of the tests exceeds."""


def length_keywords(name: str) -> dict[str, int]:
    """Keywords of a family's pipeline that give it the length of `LENGTHS`; Qwen-Image-2.1 truncates no text."""
    return {} if name == "qwen_image21" else {"max_sequence_length": LENGTHS[name]}


def over_white(images: torch.Tensor) -> torch.Tensor:
    """Images without their fourth channel, where transparent pixels are white."""
    return torch.lerp(torch.ones_like(images[:, :3]), images[:, :3], images[:, 3:])
