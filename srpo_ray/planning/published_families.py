"""Configs of FLUX.2, Z-Image, Qwen-Image, Krea 2 and Qwen-Image-2.1, so that a plan needs no download.

They are facts of the models' public repositories, with what matters for shapes alone: the `config.json` files of
black-forest-labs/FLUX.2-dev and of the four FLUX.2 klein models, of Tongyi-MAI/Z-Image-Turbo and of Qwen/Qwen-Image.
The transformers of FLUX.2 are those of diffusers' `scripts/convert_flux2_to_diffusers.py`; the other files are from
public projects that quote them. The transformer and the text encoder of Z-Image are those of Z-Image-Turbo. The
transformer of Krea 2 is that of the defaults of its class in diffusers, its autoencoder is Qwen-Image's, and its text
encoder is Qwen3-VL-4B-Instruct without output layer. Transformer and autoencoder of Qwen-Image-2.1 are those of the
defaults of their classes in diffusers, and its text encoder is Qwen3-VL-8B-Instruct; all three have the number of
weights of its files. Qwen-Image-2.1-Turbo has the same.
"""

from typing import Any

Config = dict[str, Any]

_VAE: Config = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 1024,
}

_FLUX2_VAE: Config = {
    **_VAE,
    "_class_name": "AutoencoderKLFlux2",
    "batch_norm_eps": 1e-4,
    "latent_channels": 32,
    "patch_size": [2, 2],
    "use_quant_conv": True,
    "use_post_quant_conv": True,
}
_QWEN3: Config = {
    "architectures": ["Qwen3ForCausalLM"],
    "head_dim": 128,
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "vocab_size": 151936,
}
_QWEN3_4B: Config = {**_QWEN3, "hidden_size": 2560, "intermediate_size": 9728, "tie_word_embeddings": True}
_QWEN3_8B: Config = {**_QWEN3, "hidden_size": 4096, "intermediate_size": 12288, "tie_word_embeddings": False}
_MISTRAL: Config = {
    "architectures": ["Mistral3ForConditionalGeneration"],
    "multimodal_projector_bias": False,
    "spatial_merge_size": 2,
    "tie_word_embeddings": False,
    "text_config": {
        "model_type": "mistral",
        "head_dim": 128,
        "hidden_size": 5120,
        "intermediate_size": 32768,
        "num_attention_heads": 32,
        "num_hidden_layers": 40,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
        "vocab_size": 131072,
    },
    "vision_config": {
        "model_type": "pixtral",
        "head_dim": 64,
        "hidden_size": 1024,
        "image_size": 1540,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
    },
}


def _flux2(*, heads: int, double: int, single: int, text: int, guidance: bool = False) -> Config:
    """Config of a transformer of FLUX.2 with `double` and `single` blocks, for text features of `text` channels."""
    return {
        "_class_name": "Flux2Transformer2DModel",
        "attention_head_dim": 128,
        "axes_dims_rope": [32, 32, 32, 32],
        "guidance_embeds": guidance,
        "in_channels": 128,
        "joint_attention_dim": text,
        "mlp_ratio": 3.0,
        "num_attention_heads": heads,
        "num_layers": double,
        "num_single_layers": single,
        "rope_theta": 2000,
        "timestep_guidance_channels": 256,
    }


_KLEIN_4B: dict[str, Config] = {
    "transformer": _flux2(heads=24, double=5, single=20, text=7680),
    "vae": _FLUX2_VAE,
    "text_encoder": _QWEN3_4B,
}
_KLEIN_9B: dict[str, Config] = {
    "transformer": _flux2(heads=32, double=8, single=24, text=12288),
    "vae": _FLUX2_VAE,
    "text_encoder": _QWEN3_8B,
}
_FLUX2_DEV: dict[str, Config] = {
    "transformer": _flux2(heads=48, double=8, single=48, text=15360, guidance=True),
    "vae": _FLUX2_VAE,
    "text_encoder": _MISTRAL,
}
_Z_IMAGE: dict[str, Config] = {
    "transformer": {
        "_class_name": "ZImageTransformer2DModel",
        "all_f_patch_size": [1],
        "all_patch_size": [2],
        "axes_dims": [32, 48, 48],
        "axes_lens": [1536, 512, 512],
        "cap_feat_dim": 2560,
        "dim": 3840,
        "in_channels": 16,
        "n_heads": 30,
        "n_kv_heads": 30,
        "n_layers": 30,
        "n_refiner_layers": 2,
        "qk_norm": True,
        "rope_theta": 256.0,
    },
    "vae": {
        **_VAE,
        "_class_name": "AutoencoderKL",
        "latent_channels": 16,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    "text_encoder": _QWEN3_4B,
}
_QWEN_IMAGE_VAE: Config = {
    "_class_name": "AutoencoderKLQwenImage",
    "attn_scales": [],
    "base_dim": 96,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
    "z_dim": 16,
}
_QWEN_IMAGE: dict[str, Config] = {
    "transformer": {
        "_class_name": "QwenImageTransformer2DModel",
        "attention_head_dim": 128,
        "axes_dims_rope": [16, 56, 56],
        "guidance_embeds": False,
        "in_channels": 64,
        "joint_attention_dim": 3584,
        "num_attention_heads": 24,
        "num_layers": 60,
        "out_channels": 16,
        "patch_size": 2,
    },
    "vae": _QWEN_IMAGE_VAE,
    "text_encoder": {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "tie_word_embeddings": False,
        "text_config": {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_attention_heads": 28,
            "num_hidden_layers": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
        },
        "vision_config": {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 3584,
            "patch_size": 14,
        },
    },
}

_KREA2: dict[str, Config] = {
    "transformer": {
        "_class_name": "Krea2Transformer2DModel",
        "attention_head_dim": 128,
        "axes_dims_rope": [32, 48, 48],
        "in_channels": 64,
        "intermediate_size": 16384,
        "num_attention_heads": 48,
        "num_key_value_heads": 12,
        "num_layers": 28,
        "num_layerwise_text_blocks": 2,
        "num_refiner_text_blocks": 2,
        "num_text_layers": 12,
        "text_hidden_dim": 2560,
        "text_intermediate_size": 6912,
        "text_num_attention_heads": 20,
        "text_num_key_value_heads": 20,
        "timestep_embed_dim": 256,
    },
    "vae": _QWEN_IMAGE_VAE,
    "text_encoder": {
        "architectures": ["Qwen3VLModel"],
        "tie_word_embeddings": True,
        "text_config": {
            "head_dim": 128,
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_attention_heads": 32,
            "num_hidden_layers": 36,
            "num_key_value_heads": 8,
            "vocab_size": 151936,
        },
        "vision_config": {
            "deepstack_visual_indexes": [5, 11, 17],
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_heads": 16,
            "num_position_embeddings": 2304,
            "out_hidden_size": 2560,
            "patch_size": 16,
        },
    },
}

_QWEN_IMAGE21: dict[str, Config] = {
    "transformer": {
        "_class_name": "QwenImage21Transformer2DModel",
        "attention_head_dim": 128,
        "axes_dims_rope": [16, 56, 56],
        "causal_condition": True,
        "context_in_dim": 4096,
        "in_channels": 64,
        "mlp_ratio": 3,
        "num_attention_heads": 32,
        "num_layers": 32,
        "out_channels": 64,
        "patch_size": 1,
    },
    "vae": {
        "_class_name": "AutoencoderKLQwenImage21",
        "attn_scales": [],
        "base_dim": 96,
        "decoder_base_dim": 144,
        "dim_mult": [1, 2, 4, 8, 8],
        "in_channels": 4,
        "is_residual": True,
        "num_res_blocks": 2,
        "out_channels": 4,
        "temperal_downsample": [False, True, True, True],
        "z_dim": 64,
    },
    "text_encoder": {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "tie_word_embeddings": False,
        "text_config": {
            "head_dim": 128,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_attention_heads": 32,
            "num_hidden_layers": 36,
            "num_key_value_heads": 8,
            "vocab_size": 151936,
        },
        "vision_config": {
            "deepstack_visual_indexes": [8, 16, 24],
            "depth": 27,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_heads": 16,
            "num_position_embeddings": 2304,
            "out_hidden_size": 4096,
            "patch_size": 16,
        },
    },
}

FAMILY_PIPELINES: dict[str, dict[str, Config]] = {
    "black-forest-labs/FLUX.2-klein-base-4B": _KLEIN_4B,
    "black-forest-labs/FLUX.2-klein-4B": _KLEIN_4B,
    "black-forest-labs/FLUX.2-klein-base-9B": _KLEIN_9B,
    "black-forest-labs/FLUX.2-klein-9B": _KLEIN_9B,
    "black-forest-labs/FLUX.2-dev": _FLUX2_DEV,
    "Tongyi-MAI/Z-Image": _Z_IMAGE,
    "Tongyi-MAI/Z-Image-Turbo": _Z_IMAGE,
    "Qwen/Qwen-Image": _QWEN_IMAGE,
    "Qwen/Qwen-Image-2512": _QWEN_IMAGE,
    "krea/Krea-2-Raw": _KREA2,
    "krea/Krea-2-Turbo": _KREA2,
    "Qwen/Qwen-Image-2.1": _QWEN_IMAGE21,
    "Qwen/Qwen-Image-2.1-Turbo": _QWEN_IMAGE21,
}
"""Configs of the parts of a pipeline, by its hub id."""
