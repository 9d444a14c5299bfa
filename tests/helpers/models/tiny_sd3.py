"""Stable Diffusion 3.5's classes at tiny size, with random weights, saved in the layout of diffusers."""

import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModelWithProjection, T5EncoderModel

from srpo_ray.small_world.weights import WEIGHTS

CLIP_WIDTH = 16


def save_tiny_sd3(folder: Path) -> Path:
    """A pipeline of a few thousand weights around the small world's autoencoder, T5 and tokenizers."""
    torch.manual_seed(0)
    flux = WEIGHTS / "flux"
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=64,
        caption_projection_dim=32,
        pooled_projection_dim=2 * CLIP_WIDTH,
        out_channels=16,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    tokenizer = AutoTokenizer.from_pretrained(flux / "tokenizer")
    clip = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=CLIP_WIDTH,
        intermediate_size=32,
        projection_dim=CLIP_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=AutoencoderKL.from_pretrained(flux, subfolder="vae"),
        text_encoder=CLIPTextModelWithProjection(clip),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(clip),
        tokenizer_2=tokenizer,
        text_encoder_3=T5EncoderModel.from_pretrained(flux / "text_encoder_2"),
        tokenizer_3=AutoTokenizer.from_pretrained(flux / "tokenizer_2"),
    ).save_pretrained(folder)
    return folder


def copy_of(source: Path, folder: Path) -> Path:
    """A writable copy of a saved pipeline, for tests that damage it."""
    shutil.copytree(source, folder)
    return folder
