"""Configs of well-known models, so that a plan needs no download.

They are facts of the models' public repositories: the `config.json` files of black-forest-labs/FLUX.1-dev, of
stabilityai/stable-diffusion-3.5-medium, of yuvalkirstain/PickScore_v1, of openai/clip-vit-large-patch14 and of
Qwen/Qwen2-VL-7B-Instruct, with what matters for shapes alone. `published_families.py` has those of other model
families.
"""

from srpo_ray.planning.published_families import FAMILY_PIPELINES, Config

_FLUX_TRANSFORMER: Config = {
    "_class_name": "FluxTransformer2DModel",
    "attention_head_dim": 128,
    "axes_dims_rope": [16, 56, 56],
    "guidance_embeds": True,
    "in_channels": 64,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 19,
    "num_single_layers": 38,
    "patch_size": 1,
    "pooled_projection_dim": 768,
}
_FLUX_VAE: Config = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 16,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 1024,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
_CLIP_L_TEXT: Config = {
    "architectures": ["CLIPTextModel"],
    "hidden_size": 768,
    "intermediate_size": 3072,
    "max_position_embeddings": 77,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "projection_dim": 768,
    "vocab_size": 49408,
}
_T5_XXL: Config = {
    "architectures": ["T5EncoderModel"],
    "d_ff": 10240,
    "d_kv": 64,
    "d_model": 4096,
    "feed_forward_proj": "gated-gelu",
    "num_heads": 64,
    "num_layers": 24,
    "vocab_size": 32128,
}
_FLUX: dict[str, Config] = {
    "transformer": _FLUX_TRANSFORMER,
    "vae": _FLUX_VAE,
    "text_encoder": _CLIP_L_TEXT,
    "text_encoder_2": _T5_XXL,
}

_CLIP_BIG_G_TEXT: Config = {
    **_CLIP_L_TEXT,
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
}
_SD35_MEDIUM: dict[str, Config] = {
    "transformer": {
        "_class_name": "SD3Transformer2DModel",
        "attention_head_dim": 64,
        "caption_projection_dim": 1536,
        "dual_attention_layers": list(range(13)),
        "in_channels": 16,
        "joint_attention_dim": 4096,
        "num_attention_heads": 24,
        "num_layers": 24,
        "out_channels": 16,
        "patch_size": 2,
        "pooled_projection_dim": 2048,
        "pos_embed_max_size": 384,
        "qk_norm": "rms_norm",
        "sample_size": 128,
    },
    "vae": {**_FLUX_VAE, "scaling_factor": 1.5305, "shift_factor": 0.0609},
    "text_encoder": {**_CLIP_L_TEXT, "architectures": ["CLIPTextModelWithProjection"]},
    "text_encoder_2": _CLIP_BIG_G_TEXT,
    "text_encoder_3": _T5_XXL,
}

PIPELINES: dict[str, dict[str, Config]] = {
    "black-forest-labs/FLUX.1-dev": _FLUX,
    "black-forest-labs/FLUX.1-Krea-dev": _FLUX,
    "black-forest-labs/FLUX.1-schnell": {**_FLUX, "transformer": {**_FLUX_TRANSFORMER, "guidance_embeds": False}},
    "stabilityai/stable-diffusion-3.5-medium": _SD35_MEDIUM,
    **FAMILY_PIPELINES,
}
"""Configs of the parts of a pipeline, by its hub id."""

OPEN_CLIP: dict[str, str] = {
    "hf-hub:laion/CLIP-ViT-H-14-laion2B-s32B-b79K": "ViT-H-14",
    "hf-hub:laion/CLIP-ViT-L-14-laion2B-s32B-b82K": "ViT-L-14",
    "hf-hub:laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": "ViT-bigG-14",
}
"""Architectures of open_clip, by hub id."""

TRANSFORMERS_CLIP: dict[str, Config] = {
    "yuvalkirstain/PickScore_v1": {
        "projection_dim": 1024,
        "vision_config": {
            "hidden_act": "gelu",
            "hidden_size": 1280,
            "image_size": 224,
            "intermediate_size": 5120,
            "num_attention_heads": 16,
            "num_hidden_layers": 32,
            "patch_size": 14,
            "projection_dim": 1024,
        },
        "text_config": {
            "hidden_act": "gelu",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "projection_dim": 1024,
            "vocab_size": 49408,
        },
    },
    "openai/clip-vit-large-patch14": {
        "projection_dim": 768,
        "vision_config": {
            "hidden_size": 1024,
            "image_size": 224,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
            "projection_dim": 768,
        },
        "text_config": {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "projection_dim": 768,
            "vocab_size": 49408,
        },
    },
}
"""Configs of `transformers.CLIPModel`, by hub id; the weights are float32."""

QWEN2_VL: dict[str, Config] = {
    "Qwen/Qwen2-VL-7B-Instruct": {
        "text_config": {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_attention_heads": 28,
            "num_hidden_layers": 28,
            "num_key_value_heads": 4,
            "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
            # The config has 152064 rows. HPSv3 keeps those of the tokenizer's 151657 tokens and of its own one.
            "vocab_size": 151658,
        },
        "vision_config": {
            "depth": 32,
            "embed_dim": 1280,
            "hidden_size": 3584,
            "mlp_ratio": 4,
            "num_heads": 16,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    },
}
"""Configs of `transformers.Qwen2VLModel`, by hub id, with the vocabulary of HPSv3."""
