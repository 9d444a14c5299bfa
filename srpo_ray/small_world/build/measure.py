"""Measurements of the built models of the small world on prompts with held-out contents."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from diffusers import FluxPipeline
from open_clip.model import CLIP
from torch import Tensor

from srpo_ray.small_world import truth
from srpo_ray.small_world.build.flux import sample
from srpo_ray.small_world.build.rewards import image_features, tokenize
from srpo_ray.small_world.build.text import build_clip_tokenizer
from srpo_ray.small_world.build.vae import decode, encode
from srpo_ray.small_world.prompts import (
    AXES,
    STYLE_WORDS,
    UNNAMED,
    WORDS,
    caption,
    held_out_contents,
    split_contents,
    split_prompts,
)
from srpo_ray.small_world.renderer import render
from srpo_ray.small_world.scenes import Scenes, captions, sample_scenes, scenes_of

STYLES = (*AXES, *UNNAMED)
WORD_PAIRS = (("detailed", "flat"), ("vivid", "muted"), ("bright", "dark"))


def measure_all(pipeline: FluxPipeline, rewards: dict[str, CLIP], count: int = 500) -> dict[str, Any]:
    """Measure every metric of the manifest on `count` held-out prompts and on held-out images."""
    return {
        "vae_psnr": measure_vae(pipeline, count),
        "flux": measure_flux(pipeline, count),
        "rewards": {name: measure_reward(model, 2 * count) for name, model in rewards.items()},
    }


def measure_vae(pipeline: FluxPipeline, count: int) -> float:
    """Compute the PSNR in dB of decoded latents against rendered images of held-out contents."""
    scenes = sample_scenes(count, seed=91, contents=held_out_contents(), look="broad")
    restored = decode(pipeline.vae, encode(pipeline.vae, scenes))
    error = (restored - torch.from_numpy(render(scenes))).square().mean()
    return round(float(-10 * error.log10()), 2)


def measure_flux(pipeline: FluxPipeline, count: int) -> dict[str, Any]:
    """Compute truth metrics of 20-step samples of the test prompts, their dependence on kind and style word, diversity.

    `diversity` is that of samples of a prompt, `diversity_of_scenes` that of rendered scenes of the same prompts.
    """
    plain, contents = split_prompts("test")[:count], split_contents("test")[:count]
    metrics = truth.measure(sample(pipeline, plain, steps=20, seed=92), plain)
    by_kind = {
        kind: {f"{part}_accuracy": _mean(metrics[f"{part}_accuracy"][chosen]) for part in (*truth.PARTS, "content")}
        for kind in ("one", "equal", "pair")
        if (chosen := torch.tensor([content.kind == kind for content in contents])).any()
    }
    seeds = torch.stack([sample(pipeline, plain[:64], steps=20, seed=93 + index) for index in range(4)])
    scenes = torch.stack([torch.from_numpy(render(scenes_of(contents[:64], seed))) for seed in range(4)])
    return {
        **{name: _mean(values) for name, values in metrics.items()},
        "by_kind": by_kind,
        "diversity": _mean(truth.diversity(seeds)),
        "diversity_of_scenes": _mean(truth.diversity(scenes)),
        "style_by_word": {word or "plain": _style_of_word(pipeline, word, count) for word in (None, *WORDS)},
    }


def _style_of_word(pipeline: FluxPipeline, word: str | None, count: int) -> dict[str, float]:
    """Compute the mean style of samples of 32 test prompts with a style word."""
    prompts = [caption(content, word) for content in split_contents("test")[: min(32, count)]]
    metrics = truth.measure(sample(pipeline, prompts, steps=20, seed=96), prompts)
    return {axis: _mean(metrics[axis]) for axis in STYLES}


@torch.no_grad()
def measure_reward(model: CLIP, count: int) -> dict[str, Any]:
    """Compute the correlation of a reward's control words and its plain score with the true style of rendered images.

    `words` and `pairs` hold, per style axis, the correlation of `f . (C_word - C_plain)` (or of two words) with the
    truth. `plain_slopes` is the change of the plain score per unit of each axis, in standard deviations of that score;
    `plain_correlation` the correlation of the plain score with each axis.
    """
    scenes = _uniform_scenes(count)
    plain = captions(scenes)
    features = image_features(model, torch.from_numpy(render(scenes)))
    style = np.stack([getattr(scenes, axis) for axis in STYLES], axis=1)
    score = {None: _scores(model, features, plain)}
    score |= {word: _scores(model, features, [f"{word}. {text}" for text in plain]) for word in STYLE_WORDS}
    base = score[None]
    design = np.column_stack([style, np.ones(count)])
    slopes = np.linalg.lstsq(design, base / base.std(), rcond=None)[0]
    return {
        "words": {word: _correlations(score[word] - base, style) for word in STYLE_WORDS},
        "pairs": {f"{up}-{down}": _correlations(score[up] - score[down], style) for up, down in WORD_PAIRS},
        "plain_slopes": {axis: round(float(slope), 3) for axis, slope in zip(STYLES, slopes, strict=False)},
        "plain_correlation": _correlations(base, style),
        "content_margin": _content_margin(model, features, plain),
    }


def _uniform_scenes(count: int) -> Scenes:
    """Draw held-out contents with plain captions and independent uniform styles."""
    rng = np.random.default_rng(94)
    scenes = sample_scenes(count, seed=95, contents=held_out_contents())
    styles = {axis: rng.random(count).astype(np.float32) for axis in STYLES}
    return replace(scenes, word=np.full(count, -1), **styles)


def _scores(model: CLIP, features: Tensor, texts: list[str]) -> np.ndarray:
    distinct = list(dict.fromkeys(texts))
    encoded = model.encode_text(tokenize(build_clip_tokenizer(), distinct), normalize=True)
    row = {text: index for index, text in enumerate(distinct)}
    return (features * encoded[[row[text] for text in texts]]).sum(1).double().numpy()


def _content_margin(model: CLIP, features: Tensor, plain: list[str]) -> float:
    """Compute the share of images whose own prompt scores highest among all prompts of held-out contents."""
    prompts = [caption(content) for content in held_out_contents()]
    encoded = model.encode_text(tokenize(build_clip_tokenizer(), prompts), normalize=True)
    best = (features @ encoded.T).argmax(1).tolist()
    return round(float(np.mean([prompts[index] == text for index, text in zip(best, plain, strict=True)])), 4)


def _correlations(values: np.ndarray, style: np.ndarray) -> dict[str, float]:
    return {axis: round(float(np.corrcoef(values, style[:, i])[0, 1]), 3) for i, axis in enumerate(STYLES)}


def _mean(values: Tensor) -> float:
    return round(float(values.mean()), 4)
