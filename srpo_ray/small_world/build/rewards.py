"""Training of the tiny reward models: open_clip CLIPs, contrastive first, then on synthetic preferences."""

from __future__ import annotations

import json
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

from srpo_ray.small_world.build.annotators import BIASED, UNBIASED, Taste, utility
from srpo_ray.small_world.build.fit import Curve, Recipe, fit
from srpo_ray.small_world.build.text import CLIP_LENGTH, all_captions, build_clip_tokenizer
from srpo_ray.small_world.prompts import BACKGROUNDS, SHAPES, WORDS, seen_contents
from srpo_ray.small_world.renderer import SIZE, Scenes, render, sample_scenes

_BATCH = 128
_CONTENTS_PER_BATCH = 12
_PAIRS = 64
_PREFERENCE_SCALE = 15.0
_IMAGES = 16_000


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
_CONTRASTIVE = Recipe(steps=1500, lr=1e-3, seed=31, weight_decay=0.05, ema=0.99)

PLANS: dict[str, RewardPlan] = {
    "contrastive": RewardPlan(_SMALL_PATCHES, _CONTRASTIVE),
    "preference": RewardPlan(
        _SMALL_PATCHES,
        _CONTRASTIVE,
        BIASED,
        Recipe(steps=500, lr=4e-4, seed=32, weight_decay=0.05, ema=0.99),
        starts_from="contrastive",
    ),
    "held_out": RewardPlan(
        _LARGE_PATCHES,
        Recipe(steps=1800, lr=1e-3, seed=41, weight_decay=0.05, ema=0.99),
        UNBIASED,
        Recipe(steps=600, lr=4e-4, seed=42, weight_decay=0.05, ema=0.99),
    ),
}


@dataclass(frozen=True)
class ImageBank:
    """Rendered images of seen contents in the broad look, for training.

    Attributes:
        images: uint8 [n, 3, 64, 64].
        scenes: scenes of the images.
        caption: [n] row of each image's caption in `all_captions()`.
        content: [n] row of each image's content in `prompts.all_contents()`.
    """

    images: Tensor
    scenes: Scenes
    caption: Tensor
    content: Tensor


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
    texts = tokenize(build_clip_tokenizer(), all_captions())
    count = max(_BATCH * 4, round(_IMAGES * min(1.0, scale)))
    bank = fill_bank(count, seed=plan.contrastive.seed)
    first = work / f"{plan.starts_from or name}_contrastive.pt"
    curve = fit(model, lambda rng: contrastive_loss(model, bank, texts, rng), plan.contrastive.scaled(scale), first)
    if plan.taste is not None and plan.preference is not None:
        taste, pairs = plan.taste, fill_bank(count, seed=plan.preference.seed)

        def loss(rng: torch.Generator) -> Tensor:
            # The contrastive loss continues beside the preference loss, so that style words keep their meaning.
            preference = preference_loss(model, taste, pairs, texts, rng)
            return preference + 0.5 * contrastive_loss(model, bank, texts, rng)

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


def fill_bank(count: int, seed: int) -> ImageBank:
    """Render `count` images of seen contents for training."""
    scenes = sample_scenes(count, seed, look="broad")
    content = torch.from_numpy((scenes.color * len(SHAPES) + scenes.shape) * len(BACKGROUNDS) + scenes.background)
    caption = content * (1 + len(WORDS)) + torch.from_numpy(scenes.word) + 1
    images = torch.cat(
        [torch.from_numpy(render(scenes[i : i + 1024])).mul(255).round().byte() for i in range(0, count, 1024)]
    )
    return ImageBank(images, scenes, caption, content)


def contrastive_loss(model: CLIP, bank: ImageBank, texts: Tensor, rng: torch.Generator) -> Tensor:
    """Compute CLIP's loss with equal captions merged: an image has one correct caption, a caption several images."""
    # Few contents per batch, so that style words and not only contents determine the correct caption.
    codes = torch.tensor([(c * len(SHAPES) + s) * len(BACKGROUNDS) + b for c, s, b in seen_contents()])
    chosen = codes[torch.randperm(len(codes), generator=rng)[:_CONTENTS_PER_BATCH]]
    pool = torch.isin(bank.content, chosen).nonzero()[:, 0]
    index = pool[torch.randint(len(pool), (_BATCH,), generator=rng)]
    captions, label = bank.caption[index].unique(return_inverse=True)
    features = image_features(model, _pixels(bank, index, rng))
    logits = model.logit_scale.clamp(max=4.0).exp() * features @ model.encode_text(texts[captions], normalize=True).T
    right = F.one_hot(label, len(captions)).float()
    return (F.cross_entropy(logits, label) + F.cross_entropy(logits.T, (right / right.sum(0)).T)) / 2


def preference_loss(model: CLIP, taste: Taste, bank: ImageBank, texts: Tensor, rng: torch.Generator) -> Tensor:
    """Compute the Bradley-Terry loss of pairs: one caption, two images, and the preference rate for the first."""
    captioned = torch.randint(len(bank.images), (_PAIRS,), generator=rng)
    pairs = [_image_for(bank, captioned, rng) for _ in range(2)]
    # Half of the captions lose their style word, because the score is mostly used with plain prompts.
    plain = torch.rand(_PAIRS, generator=rng) < 0.5
    caption = torch.where(plain, bank.content[captioned] * (1 + len(WORDS)), bank.caption[captioned])
    wanted = bank.scenes[captioned.numpy()]
    wanted.word[plain.numpy()] = -1
    likes = [torch.from_numpy(utility(taste, wanted, bank.scenes[index.numpy()])) for index in pairs]
    text = model.encode_text(texts[caption], normalize=True)
    features = image_features(model, _pixels(bank, torch.cat(pairs), rng)).chunk(2)
    first, second = ((feature * text).sum(1) for feature in features)
    wins = torch.sigmoid(2 * (likes[0] - likes[1]))
    return F.binary_cross_entropy_with_logits(_PREFERENCE_SCALE * (first - second), wins)


def _image_for(bank: ImageBank, captioned: Tensor, rng: torch.Generator) -> Tensor:
    """Draw an image per caption: with the caption's content in three of four cases, else with any content."""
    anyone = torch.randint(len(bank.images), captioned.shape, generator=rng)
    same = bank.content[captioned][:, None] == bank.content[None, :]
    own = torch.multinomial(same.float(), 1, generator=rng)[:, 0]
    return torch.where(torch.rand(captioned.shape, generator=rng) < 0.75, own, anyone)


def _pixels(bank: ImageBank, index: Tensor, rng: torch.Generator) -> Tensor:
    images = bank.images[index].float() / 255
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
