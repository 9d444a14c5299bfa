"""Training of the tiny FLUX transformer and its text encoders by flow matching, and saving of the pipeline."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTextModel, T5EncoderModel

from srpo_ray.files import replacing
from srpo_ray.small_world.build.fit import Curve, Recipe, fit
from srpo_ray.small_world.build.text import (
    CLIP_LENGTH,
    T5_LENGTH,
    build_clip_encoder,
    build_clip_tokenizer,
    build_t5_encoder,
    build_t5_tokenizer,
)
from srpo_ray.small_world.build.vae import encode
from srpo_ray.small_world.scenes import captions, sample_scenes

FLUX_RECIPE = Recipe(steps=9500, lr=1e-3, seed=21, ema=0.999)
SHIFT = 3.0
_BATCH = 64
_IMAGES = 60_000
_TEXT_WIDTH = 64
_LATENT_SHAPE = (16, 8, 8)


class TextToVelocity(nn.Module):
    """Transformer and both text encoders as one module, since they are trained together."""

    def __init__(self, transformer: FluxTransformer2DModel, clip: CLIPTextModel, t5: T5EncoderModel) -> None:
        super().__init__()
        self.transformer, self.clip, self.t5 = transformer, clip, t5
        rows, columns = _LATENT_SHAPE[1] // 2, _LATENT_SHAPE[2] // 2
        grid = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
        self.image_ids = F.pad(grid, (1, 0)).float()

    def forward(self, tokens: Tensor, sigma: Tensor, clip_ids: Tensor, t5_ids: Tensor, guidance: Tensor) -> Tensor:
        """Return the velocity [B, 16, 64] of tokens [B, 16, 64] at sigma [B]; text as token ids [B, length]."""
        return self.transformer(
            hidden_states=tokens,
            timestep=sigma,
            guidance=guidance,
            pooled_projections=self.clip(clip_ids).pooler_output,
            encoder_hidden_states=self.t5(t5_ids).last_hidden_state,
            img_ids=self.image_ids,
            txt_ids=torch.zeros(t5_ids.shape[1], 3),
        ).sample


@dataclass(frozen=True)
class FlowData:
    """Training data of the flow: tokens [n, 16, 64] and token ids of their captions [n, length]."""

    tokens: Tensor
    clip_ids: Tensor
    t5_ids: Tensor


def build_transformer() -> FluxTransformer2DModel:
    """Build the untrained transformer: 2.4 M parameters, with guidance embedding, as in FLUX.1-dev."""
    return FluxTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=_TEXT_WIDTH,
        pooled_projection_dim=_TEXT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )


def train_flux(vae: AutoencoderKL, work: Path, scale: float) -> tuple[FluxPipeline, Curve]:
    """Train the pipeline on images of seen contents in the "AI look"; return it with its training curve."""
    torch.manual_seed(FLUX_RECIPE.seed)
    clip_tokenizer, t5_tokenizer = build_clip_tokenizer(), build_t5_tokenizer()
    model = TextToVelocity(
        build_transformer(),
        build_clip_encoder(clip_tokenizer, _TEXT_WIDTH),
        build_t5_encoder(t5_tokenizer, _TEXT_WIDTH),
    )
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT, use_dynamic_shifting=False),
        vae=vae,
        text_encoder=model.clip,
        tokenizer=clip_tokenizer,
        text_encoder_2=model.t5,
        tokenizer_2=t5_tokenizer,
        transformer=model.transformer,
    )
    data = _load_or_encode(pipeline, work / "latents.pt", max(_BATCH, round(_IMAGES * min(1.0, scale))))
    curve = fit(model, lambda rng: _flow_loss(model, data, rng), FLUX_RECIPE.scaled(scale), work / "flux.pt")
    model.eval()
    return pipeline, curve


def save_pipeline(pipeline: FluxPipeline, folder: Path) -> None:
    """Save the pipeline in half precision, configured to load in float32 by default."""
    for part in (pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        part.half()
    pipeline.save_pretrained(folder, safe_serialization=True)
    for part in (pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        part.float()
    for name in ("text_encoder", "text_encoder_2"):
        path = folder / name / "config.json"
        config = {**json.loads(path.read_text()), "dtype": "float32"}
        path.write_text(json.dumps(config, indent=2) + "\n")


@torch.no_grad()
def sample(pipeline: FluxPipeline, prompts: list[str], steps: int, seed: int, guidance: float = 3.5) -> Tensor:
    """Sample one image per prompt, [B, 3, 64, 64] in [0, 1], with the Euler solver on the shift-3 grid."""
    pipeline.set_progress_bar_config(disable=True)
    rng = torch.Generator().manual_seed(seed)
    batches = []
    for start in tqdm(range(0, len(prompts), 64), desc="sampling", leave=False):
        images: Any = pipeline(
            prompt=prompts[start : start + 64],
            height=64,
            width=64,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=rng,
            output_type="pt",
            max_sequence_length=T5_LENGTH,
            return_dict=False,
        )
        batches.append(images[0])
    return torch.cat(batches).float()


def _load_or_encode(pipeline: FluxPipeline, path: Path, count: int) -> FlowData:
    if not path.is_file():
        scenes = sample_scenes(count, seed=22)
        tokens = _pack(encode(pipeline.vae, scenes))
        texts = captions(scenes)
        # Tokenizers store their last padding; new ones keep it out of the pipeline's files.
        clip_ids = build_clip_tokenizer()(texts, padding="max_length", max_length=CLIP_LENGTH, return_tensors="pt")
        t5_ids = build_t5_tokenizer()(texts, padding="max_length", max_length=T5_LENGTH, return_tensors="pt")
        state = {"tokens": tokens, "clip_ids": clip_ids.input_ids, "t5_ids": t5_ids.input_ids}
        with replacing(path) as unfinished:
            torch.save(state, unfinished)
    return FlowData(**torch.load(path, weights_only=True))


def _pack(latents: Tensor) -> Tensor:
    """Turn latents [n, 16, 8, 8] into FLUX's tokens [n, 16, 64]: every 2x2 block becomes one token."""
    count, channels, height, width = latents.shape
    blocks = latents.reshape(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return blocks.reshape(count, height * width // 4, channels * 4)


def _flow_loss(model: TextToVelocity, data: FlowData, rng: torch.Generator) -> Tensor:
    index = torch.randint(len(data.tokens), (_BATCH,), generator=rng)
    clean = data.tokens[index]
    noise = torch.randn(clean.shape, generator=rng)
    uniform = torch.sigmoid(torch.randn(_BATCH, generator=rng))
    sigma = SHIFT * uniform / (1 + (SHIFT - 1) * uniform)
    noisy = torch.lerp(clean, noise, sigma[:, None, None])
    # Guidance is an input of FLUX.1-dev; with random values the model learns to ignore it.
    guidance = 1 + 4 * torch.rand(_BATCH, generator=rng)
    velocity = model(noisy, sigma, data.clip_ids[index], data.t5_ids[index], guidance)
    return F.mse_loss(velocity, noise - clean)
