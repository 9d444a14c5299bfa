"""Text features, encoded once and kept on disk, so that training needs no text encoder in memory."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from srpo_ray.files import replacing
from srpo_ray.models.encode import encode_prompts
from srpo_ray.models.paths import resolve_path
from srpo_ray.models.text import Conditioning


def load_or_encode(
    model_path: str, prompts: Sequence[str], max_sequence_length: int, dtype: torch.dtype, device: str, cache: Path
) -> Conditioning:
    """Features of prompts, from the cache if it has them.

    Args:
        model_path: Folder or hub id of the pipeline, or `small_world`.
        prompts: Prompts, in any language.
        max_sequence_length: T5 tokens per prompt.
        dtype: Data type that the encoders run in.
        device: Where the encoders run.
        cache: Folder of the cache; made if needed. Files are keyed by encoder, prompts and length.
    """
    path = resolve_path(model_path)
    file = cache / f"{_key(path, prompts, max_sequence_length, dtype)}.safetensors"
    if not file.exists():
        conditioning = encode_prompts(path, prompts, max_sequence_length, dtype, device)
        with replacing(file) as unfinished:
            save_file({"t5": conditioning.prompt_embeds, "clip": conditioning.pooled_prompt_embeds}, unfinished)
    tensors = load_file(file)
    return Conditioning(tensors["t5"], tensors["clip"])


def _key(path: str, prompts: Sequence[str], max_sequence_length: int, dtype: torch.dtype) -> str:
    folders = [Path(path) / name for name in ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2")]
    files = sorted(file for folder in folders if folder.is_dir() for file in folder.iterdir())
    stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    identity = json.dumps([path, stamps, list(prompts), max_sequence_length, str(dtype)])
    return hashlib.sha256(identity.encode()).hexdigest()[:32]
