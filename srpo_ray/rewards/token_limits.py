"""Token limits of reward models, from their configs and tokenizers, without their weights."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srpo_ray.config.rewards import (
    ImageRewardConfig,
    OpenClipRewardConfig,
    RewardModelConfig,
    TransformersClipRewardConfig,
)
from srpo_ray.imports import without_collection
from srpo_ray.rewards.models.image_reward import NUM_TOKENS
from srpo_ray.rewards.models.open_clip import CONFIG_FILE, open_clip_source
from srpo_ray.rewards.reading import Reading


@dataclass(frozen=True)
class TokenLimit:
    """Maximum length of the texts that a reward model reads."""

    num_tokens: int
    """Maximum number of tokens, start and end tokens included; the model truncates longer texts."""
    count: Callable[[Sequence[str]], list[int]]
    """Function that counts the tokens of texts, start and end tokens included."""


def token_limit(config: RewardModelConfig) -> TokenLimit | None:
    """Find the limit of a reward model; None for one that reads no text, or truncates none that is known here.

    Args:
        config: The model. Of its files, only config and tokenizer are read.

    Raises:
        ValueError: If they cannot be read.
    """
    reader = _READERS.get(config.type)
    return reader(config) if reader else None


def _of_open_clip(config: OpenClipRewardConfig) -> TokenLimit | None:
    if config.architecture:
        return _by_open_clip(config.name, config.architecture)
    source = open_clip_source(config.name, config.path)
    folder = Path(source.removeprefix("local-dir:"))
    text = _text_config(config.name, folder) if folder.is_dir() else {}
    # The import of open_clip takes seconds. A folder with a tokenizer of its own, as the small world's, needs none.
    if not text.get("hf_tokenizer_name"):
        return _by_open_clip(config.name, source)
    from transformers import AutoTokenizer

    with Reading(config.name, "a tokenizer", str(folder), "check `path`"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
    return TokenLimit(int(text.get("context_length", 77)), _counted_by(tokenizer))


def _text_config(name: str, folder: Path) -> dict[str, Any]:
    with Reading(name, "a readable open_clip config", str(folder), "check `path`"):
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    return config.get("model_cfg", {}).get("text_cfg", {})


def _by_open_clip(name: str, source: str) -> TokenLimit | None:
    with without_collection():
        import open_clip

    with Reading(name, "a readable open_clip tokenizer", source, "check `path`"):
        tokenizer = open_clip.get_tokenizer(source)
        text = (open_clip.get_model_config(source) or {}).get("text_cfg", {})
    num_tokens = int(text.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH))
    if isinstance(tokenizer, open_clip.tokenizer.SimpleTokenizer):
        # Without a start and an end token.
        return TokenLimit(num_tokens, lambda texts: [len(tokenizer.encode(text)) + 2 for text in texts])
    inner = getattr(tokenizer, "tokenizer", None)
    return None if inner is None else TokenLimit(num_tokens, _counted_by(inner))


def _of_transformers_clip(config: TransformersClipRewardConfig) -> TokenLimit:
    from transformers import AutoConfig, CLIPTokenizer

    with Reading(config.name, "a readable CLIP model of transformers", config.path, "check the path"):
        settings = AutoConfig.from_pretrained(config.path)
        tokenizer = CLIPTokenizer.from_pretrained(config.tokenizer or config.path)
        num_tokens = int(settings.text_config.max_position_embeddings)
    return TokenLimit(num_tokens, _counted_by(tokenizer))


def _of_image_reward(config: ImageRewardConfig) -> TokenLimit:
    from transformers import BertTokenizer

    with Reading(config.name, "a tokenizer", config.tokenizer, "set `tokenizer` to the folder or hub id of BERT's"):
        tokenizer = BertTokenizer.from_pretrained(config.tokenizer)
    return TokenLimit(NUM_TOKENS, _counted_by(tokenizer))


def _counted_by(tokenizer: Any) -> Callable[[Sequence[str]], list[int]]:
    """Build the function that counts tokens with a tokenizer of transformers."""
    return lambda texts: [len(ids) for ids in tokenizer(list(texts), verbose=False)["input_ids"]] if texts else []


_READERS: dict[str, Callable[[Any], TokenLimit | None]] = {
    "image_reward": _of_image_reward,
    "open_clip": _of_open_clip,
    "transformers_clip": _of_transformers_clip,
}
