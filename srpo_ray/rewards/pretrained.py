"""Whole pretrained models from a folder or the hub, in the format of transformers: all of their weights or none."""

from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

CLIP_STATISTICS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Channel means and deviations of CLIP's training pictures."""
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
    try:
        kind = AutoConfig.from_pretrained(path).model_type
        if kind not in classes:
            raise ValueError(f"{where} a {what} model at {path!r}, received one of type {kind!r}; choose another")
        # transformers annotates the one return type only, and would load the type that the file has.
        loaded: Any = classes[kind].from_pretrained(path, output_loading_info=True, dtype=torch.float32)
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise ValueError(
            f"{where} a readable {what} model of transformers at {path!r}, received"
            f" {type(error).__name__}: {str(error)[:300]}; check the path, or save the model again"
        ) from error
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
    where = f"reward {name!r}: expected a tokenizer at {path!r}"
    cure = "set `tokenizer` to the folder or hub id of the model's own"
    try:
        tokenizer = tokenizer_class.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{where}, received {str(error)[:300]}; {cure}") from error
    # From a folder without its files transformers makes a tokenizer that knows no words. A few marks may be missing,
    # which the model has for other tasks.
    if not 0.9 * num_tokens <= len(tokenizer) <= num_tokens:
        raise ValueError(f"{where} with the model's {num_tokens} tokens, received one with {len(tokenizer)}; {cure}")
    return tokenizer


def picture_statistics(
    path: str, otherwise: tuple[tuple[float, ...], tuple[float, ...]]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Channel means and deviations from the folder's picture processor, if it has one."""
    from transformers import ImageProcessingMixin

    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(path)
    except OSError:
        return otherwise
    mean, std = otherwise
    return tuple(settings.get("image_mean", mean)), tuple(settings.get("image_std", std))


def pooled(output: Any) -> Tensor:
    """The projected features: transformers 5 returns them inside an output object, older versions bare."""
    return output if isinstance(output, Tensor) else output.pooler_output
