"""Training of the tiny reward models: open_clip CLIPs, contrastive first, then on synthetic preferences."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTokenizer

from srpo_ray.small_world.build.annotators import UNBIASED, Taste, biased, utility
from srpo_ray.small_world.build.fit import Curve, Recipe, fit
from srpo_ray.small_world.build.text import CLIP_LENGTH, build_clip_tokenizer
from srpo_ray.small_world.prompts import BACKGROUNDS, COLORS, MOST_OBJECTS, SHAPES, Content, is_held_out
from srpo_ray.small_world.renderer import render
from srpo_ray.small_world.scenes import Scenes, captions, content_table, sample_scenes, scenes_of
from srpo_ray.small_world.shapes import SIZE

_BATCH = 128
_FAMILIES, _FAMILY_SIZE = 4, 3
_PAIRS = 64
_PREFERENCE_SCALE = 15.0


@dataclass(frozen=True)
class RewardPlan:
    """Plan of one reward model: vision tower, contrastive training, then preference training if it has a taste."""

    vision: dict[str, int]
    contrastive: Recipe
    taste: Taste | None = None
    preference: Recipe | None = None
    starts_from: str | None = None


_SMALL_PATCHES = {"image_size": SIZE, "layers": 4, "width": 96, "head_width": 24, "patch_size": 8}
_LARGE_PATCHES = {"image_size": SIZE, "layers": 3, "width": 128, "head_width": 32, "patch_size": 16}
_CONTRASTIVE = Recipe(steps=2300, lr=1e-3, seed=31, weight_decay=0.05, ema=0.99)

_PREFERENCE = Recipe(steps=500, lr=4e-4, seed=32, weight_decay=0.05, ema=0.99)


def _preference_plan(bias: float) -> RewardPlan:
    return RewardPlan(_SMALL_PATCHES, _CONTRASTIVE, biased(bias), _PREFERENCE, starts_from="contrastive")


PLANS: dict[str, RewardPlan] = {
    "contrastive": RewardPlan(_SMALL_PATCHES, _CONTRASTIVE),
    "preference": _preference_plan(bias=1.5),
    "preference_unbiased": _preference_plan(bias=0.0),
    "preference_biased": _preference_plan(bias=3.0),
    "held_out": RewardPlan(
        _LARGE_PATCHES,
        Recipe(steps=2500, lr=1e-3, seed=41, weight_decay=0.05, ema=0.99),
        UNBIASED,
        Recipe(steps=700, lr=4e-4, seed=42, weight_decay=0.05, ema=0.99),
    ),
}


def build_reward(vision: dict[str, int]) -> CLIP:
    """Build an untrained open_clip `CLIP` with a tiny text tower."""
    return CLIP(**_model_config(vision))


def train_reward(name: str, work: Path, scale: float) -> tuple[CLIP, Curve]:
    """Train one reward model of `PLANS`; return it with the training curve of its last training.

    A model that starts from another model's contrastive weights reads its finished checkpoint in `work`.
    """
    plan = PLANS[name]
    torch.manual_seed(plan.contrastive.seed)
    model = build_reward(plan.vision)
    tokenizer = build_clip_tokenizer()
    first = work / f"{plan.starts_from or name}_contrastive.pt"
    curve = fit(model, lambda rng: contrastive_loss(model, tokenizer, rng), plan.contrastive.scaled(scale), first)
    if plan.taste is not None and plan.preference is not None:
        taste = plan.taste

        def loss(rng: torch.Generator) -> Tensor:
            # The contrastive loss continues beside the preference loss, so that style words keep their meaning.
            return preference_loss(model, taste, tokenizer, rng) + 0.5 * contrastive_loss(model, tokenizer, rng)

        curve = fit(model, loss, plan.preference.scaled(scale), work / f"{name}_preference.pt")
    return model.eval(), curve


def save_reward(name: str, model: CLIP, folder: Path) -> None:
    """Write an open_clip folder in half precision: config, weights and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {"mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD, "interpolation": "bicubic"}
    config = {"model_cfg": _model_config(PLANS[name].vision), "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    halves = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    save_file(halves, folder / "open_clip_model.safetensors")
    build_clip_tokenizer().save_pretrained(folder)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Return token ids [n, 24], padded and truncated to the text towers' length."""
    return tokenizer(
        texts, padding="max_length", max_length=CLIP_LENGTH, truncation=True, return_tensors="pt"
    ).input_ids


def image_features(model: CLIP, images: Tensor) -> Tensor:
    """Return normalised features [B, 64] of images [B, 3, 64, 64] in [0, 1]."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    return model.encode_image((images - mean) / std, normalize=True)


def variants(content: Content, seed: int, count: int) -> list[Content]:
    """Return seen contents that differ from a content in one part: one attribute, the number, or the positions.

    Args:
        content: a seen content.
        seed: seed of the choice.
        count: number of variants, all different from each other.
    """
    rng, found = random.Random(seed), list[Content]()
    while len(found) < count:
        other = _changed(content, rng)
        if other in content_table().index and not is_held_out(other) and other not in (content, *found):
            found.append(other)
    return found


def _changed(content: Content, rng: random.Random) -> Content:
    """Change one part of a content; the result may be no content of the small world."""
    part = rng.choice(("color", "shape", "background", "number" if content.relation is None else "position"))
    if part == "background":
        return content._replace(background=rng.randrange(len(BACKGROUNDS)))
    if part == "number":
        return content._replace(objects=content.objects[:1] * rng.randint(1, MOST_OBJECTS))
    if part == "position":
        return content._replace(objects=content.objects[::-1])
    slot = rng.randrange(len(content.objects)) if content.relation else None
    value = rng.randrange(len(COLORS if part == "color" else SHAPES))
    kinds = [
        ((value, kind[1]) if part == "color" else (kind[0], value)) if slot in (None, index) else kind
        for index, kind in enumerate(content.objects)
    ]
    return content._replace(objects=tuple(kinds))


def contrastive_loss(model: CLIP, tokenizer: CLIPTokenizer, rng: torch.Generator) -> Tensor:
    """Compute CLIP's loss with equal captions merged: an image has one correct caption, a caption several images."""
    # Few contents per batch, so that style words and not only contents determine the correct caption; and contents that
    # differ in one part, so that every part counts.
    seed = _seed(rng)
    bases = sample_scenes(_FAMILIES, seed).contents
    contents = [each for base in bases for each in (base, *variants(base, seed, _FAMILY_SIZE - 1))]
    scenes = sample_scenes(_BATCH, seed, contents, look="broad")
    texts = captions(scenes)
    distinct = list(dict.fromkeys(texts))
    label = torch.tensor([distinct.index(text) for text in texts])
    features = image_features(model, _pixels(scenes, rng))
    encoded = model.encode_text(tokenize(tokenizer, distinct), normalize=True)
    logits = model.logit_scale.clamp(max=4.0).exp() * features @ encoded.T
    right = F.one_hot(label, len(distinct)).float()
    return (F.cross_entropy(logits, label) + F.cross_entropy(logits.T, (right / right.sum(0)).T)) / 2


def preference_loss(model: CLIP, taste: Taste, tokenizer: CLIPTokenizer, rng: torch.Generator) -> Tensor:
    """Compute the Bradley-Terry loss of pairs: one caption, two images, and the preference rate for the first."""
    seed = _seed(rng)
    captioned = sample_scenes(_PAIRS, seed, look="broad")
    # Half of the captions lose their style word, because the score is mostly used with plain prompts.
    captioned.word[torch.rand(_PAIRS, generator=rng).numpy() < 0.5] = -1
    shown = [_images_for(captioned, seed + 2 * side + 1, rng) for side in range(2)]
    likes = [torch.from_numpy(utility(taste, captioned, scenes)) for scenes in shown]
    text = model.encode_text(tokenize(tokenizer, captions(captioned)), normalize=True)
    first, second = ((image_features(model, _pixels(scenes, rng)) * text).sum(1) for scenes in shown)
    wins = torch.sigmoid(2 * (likes[0] - likes[1]))
    return F.binary_cross_entropy_with_logits(_PREFERENCE_SCALE * (first - second), wins)


def _images_for(captioned: Scenes, seed: int, rng: torch.Generator) -> Scenes:
    """Draw a scene per caption: three in five with its content, one in five with a variant of it, one with any."""
    anyone = sample_scenes(len(captioned), seed).contents
    draws = torch.rand(len(captioned), generator=rng).tolist()
    contents = [
        own if draw < 0.6 else variants(own, seed + index, 1)[0] if draw < 0.8 else other
        for index, (own, other, draw) in enumerate(zip(captioned.contents, anyone, draws, strict=True))
    ]
    return scenes_of(contents, seed + 1, look="broad")


def _seed(rng: torch.Generator) -> int:
    return int(torch.randint(2**31, (1,), generator=rng))


def _pixels(scenes: Scenes, rng: torch.Generator) -> Tensor:
    images = torch.from_numpy(render(scenes))
    # A little noise makes the image gradient smoother, which reward training depends on.
    return images + 0.02 * torch.randn(images.shape, generator=rng)


def _model_config(vision: dict[str, int]) -> dict[str, Any]:
    text = {
        "context_length": CLIP_LENGTH,
        "vocab_size": len(build_clip_tokenizer()),
        # With any name open_clip reads the tokenizer from the model's folder.
        "hf_tokenizer_name": "small_world",
        "width": 64,
        "heads": 4,
        "layers": 2,
    }
    return {"embed_dim": 64, "vision_cfg": vision, "text_cfg": text}
