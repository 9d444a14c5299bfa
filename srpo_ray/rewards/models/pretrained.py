"""Whole pretrained models from a folder or the hub, in the format of transformers: all of their weights or none."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from srpo_ray.rewards.reading import Reading, local_folder

CLIP_STATISTICS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Channel means and deviations of CLIP's training images."""
_KEYS = ("image_mean", "image_std")
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_SHOWN = 3


def load_pretrained(name: str, path: str, classes: Mapping[str, Any], what: str) -> Any:
    """Load a model of one of several types in float32, whatever type its file has.

    Args:
        name: The reward, for messages.
        path: Folder or hub id.
        classes: `model_type` of the config -> class.
        what: Name of such models for people.

    Raises:
        ValueError: If it is missing, cannot be read, is of another type, or its weights are not exactly the type's.
    """
    from transformers import AutoConfig

    where = f"reward {name!r}: expected"
    reading = Reading(name, f"a readable {what} model of transformers", path, "check the path")
    with reading:
        kind = AutoConfig.from_pretrained(path).model_type
    if kind not in classes:
        raise ValueError(f"{where} a {what} model at {path!r}, received one of type {kind!r}; choose another")
    with reading:
        # transformers annotates the one return type only, and would load the type that the file has.
        loaded: Any = classes[kind].from_pretrained(path, output_loading_info=True, dtype=torch.float32)
    model, found = loaded
    missing = sorted(found["missing_keys"])
    # Older versions saved a table of positions that newer ones compute.
    extra = sorted(key for key in found["unexpected_keys"] if not key.endswith("position_ids"))
    for problem, keys in (("without", missing), ("with unknown", extra)):
        if keys:
            raise ValueError(
                f"{where} all weights of a {what} model at {path!r} and no others, received a checkpoint"
                f" {problem} {len(keys)} of them ({', '.join(keys[:_SHOWN])}); download it again"
            )
    return model


def load_tokenizer(name: str, path: str, tokenizer_class: Any, num_tokens: int) -> Any:
    """Load a tokenizer that a model can have been trained with.

    Args:
        name: The reward, for messages.
        path: Folder or hub id.
        tokenizer_class: A tokenizer class of transformers.
        num_tokens: Tokens that the model knows.

    Raises:
        ValueError: If there is none, or it has another number of tokens.
    """
    cure = "set `tokenizer` to the folder or hub id of the model's own"
    with Reading(name, "a tokenizer", path, cure):
        tokenizer = tokenizer_class.from_pretrained(path)
    check_tokenizer(name, path, tokenizer, num_tokens, cure)
    if len(tokenizer) > num_tokens:
        raise ValueError(_other_size(name, path, tokenizer, num_tokens, cure))
    return tokenizer


def check_tokenizer(name: str, path: str, tokenizer: Any, num_tokens: int, cure: str) -> None:
    """Refuse a tokenizer that a model cannot have been trained with.

    Args:
        name: The reward, for messages.
        path: Folder or hub id.
        tokenizer: A tokenizer of transformers.
        num_tokens: Tokens that the model knows.
        cure: Advice for the message.

    Raises:
        ValueError: If it has too few tokens, or cannot pad a text with tokens that the model knows.
    """
    # From a folder without its files transformers makes a tokenizer that knows no words. A few marks may be missing,
    # which the model has for other tasks.
    if len(tokenizer) < 0.9 * num_tokens:
        raise ValueError(_other_size(name, path, tokenizer, num_tokens, cure))
    with Reading(name, "a tokenizer that can pad texts", path, cure):
        ids = tokenizer(["a", ""], padding="max_length", truncation=True, max_length=8)["input_ids"]
    largest = max(map(max, ids))
    if largest >= num_tokens:
        raise ValueError(
            f"reward {name!r}: expected a tokenizer at {path!r} with ids below {num_tokens}, received {largest}; {cure}"
        )


def _other_size(name: str, path: str, tokenizer: Any, num_tokens: int, cure: str) -> str:
    return (
        f"reward {name!r}: expected a tokenizer at {path!r} with the model's {num_tokens} tokens, received one with"
        f" {len(tokenizer)}; {cure}"
    )


Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Three channel means and three deviations."""


def image_statistics(name: str, path: str, otherwise: Statistics) -> Statistics:
    """Channel means and deviations from the folder's image processor, if it has one.

    Args:
        name: The reward, for messages.
        path: Folder or hub id.
        otherwise: The result for a model without an image processor.

    Raises:
        ValueError: If the processor's file is damaged, or has other than three finite means and positive deviations.
    """
    from transformers import ImageProcessingMixin

    with Reading(name, "a readable image processor", path, "check its `preprocessor_config.json`"):
        try:
            settings, _ = ImageProcessingMixin.get_image_processor_dict(path)
        except OSError:
            # transformers raises the same for a file that is missing and for one that is no JSON.
            folder = local_folder(path)
            if folder and any((folder / file).exists() for file in _PROCESSORS):
                raise
            return otherwise
        mean, std = (tuple(settings.get(key, default)) for key, default in zip(_KEYS, otherwise, strict=True))
        if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
            raise ValueError(f"expected three finite means and positive deviations, got {mean} and {std}")
    return mean, std


def pooled(output: Any) -> Tensor:
    """The projected features: transformers 5 returns them inside an output object, older versions bare."""
    return output if isinstance(output, Tensor) else output.pooler_output
