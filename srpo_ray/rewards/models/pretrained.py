"""Pretrained models in the format of transformers, from a folder or the hub: load all of their weights or none."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from srpo_ray.rewards.reading import Reading, local_folder

CLIP_STATISTICS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Channel means and standard deviations of CLIP's training images."""
_KEYS = ("image_mean", "image_std")
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_SHOWN = 3


def load_pretrained(name: str, path: str, classes: Mapping[str, Any], what: str) -> Any:
    """Load a model of one of several classes in float32, whatever the data type of its file.

    Args:
        name: Name of the reward, for messages.
        path: Folder or hub id.
        classes: `model_type` of the config -> class.
        what: Name of such models, for messages.

    Raises:
        ValueError: If the model is missing, cannot be read or is of another type, or its weights are not exactly those
            of its class.
    """
    from transformers import AutoConfig

    where = f"reward {name!r}: expected"
    reading = Reading(name, f"a readable {what} model of transformers", path, "check the path")
    with reading:
        kind = AutoConfig.from_pretrained(path).model_type
    if kind not in classes:
        raise ValueError(f"{where} a {what} model at {path!r}, received one of type {kind!r}; choose another")
    with reading:
        # transformers annotates one of the two return types only. Without `dtype` it would keep the file's data type.
        loaded: Any = classes[kind].from_pretrained(path, output_loading_info=True, dtype=torch.float32)
    model, found = loaded
    missing = sorted(found["missing_keys"])
    # Older versions saved a table of position ids that newer ones compute.
    extra = sorted(key for key in found["unexpected_keys"] if not key.endswith("position_ids"))
    for problem, keys in (("without", missing), ("with unknown", extra)):
        if keys:
            raise ValueError(
                f"{where} all weights of a {what} model at {path!r} and no others, received a checkpoint"
                f" {problem} {len(keys)} of them ({', '.join(keys[:_SHOWN])}); download it again"
            )
    return model


def load_tokenizer(name: str, path: str, tokenizer_class: Any, num_tokens: int) -> Any:
    """Load a tokenizer and check that its vocabulary matches the model's.

    Args:
        name: Name of the reward, for messages.
        path: Folder or hub id.
        tokenizer_class: A tokenizer class of transformers.
        num_tokens: Size of the model's vocabulary.

    Raises:
        ValueError: If there is no tokenizer, or its vocabulary has another size.
    """
    cure = "set `tokenizer` to the folder or hub id of the model's own"
    with Reading(name, "a tokenizer", path, cure):
        tokenizer = tokenizer_class.from_pretrained(path)
    check_tokenizer(name, path, tokenizer, num_tokens, cure)
    if len(tokenizer) > num_tokens:
        raise ValueError(_other_size(name, path, tokenizer, num_tokens, cure))
    return tokenizer


def check_tokenizer(name: str, path: str, tokenizer: Any, num_tokens: int, cure: str) -> None:
    """Refuse a tokenizer whose vocabulary does not match the model's.

    Args:
        name: Name of the reward, for messages.
        path: Folder or hub id.
        tokenizer: A tokenizer of transformers.
        num_tokens: Size of the model's vocabulary.
        cure: Advice for the message.

    Raises:
        ValueError: If the tokenizer has too few tokens, or pads with an id outside the model's vocabulary.
    """
    # From a folder without tokenizer files, transformers makes a tokenizer with an empty vocabulary. Special tokens of
    # the model's other tasks may be missing.
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
"""Three channel means and three standard deviations."""


def image_statistics(name: str, path: str, otherwise: Statistics) -> Statistics:
    """Read channel means and standard deviations from the model's image processor, if it has one.

    Args:
        name: Name of the reward, for messages.
        path: Folder or hub id.
        otherwise: Result for a model without an image processor.

    Raises:
        ValueError: If the processor's file is damaged, or has other than three finite means and positive deviations.
    """
    from transformers import ImageProcessingMixin

    with Reading(name, "a readable image processor", path, "check its `preprocessor_config.json`"):
        try:
            settings, _ = ImageProcessingMixin.get_image_processor_dict(path)
        except OSError:
            # transformers raises the same error for a missing file and for invalid JSON.
            folder = local_folder(path)
            if folder and any((folder / file).exists() for file in _PROCESSORS):
                raise
            return otherwise
        mean, std = (tuple(settings.get(key, default)) for key, default in zip(_KEYS, otherwise, strict=True))
        if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
            raise ValueError(f"expected three finite means and positive deviations, got {mean} and {std}")
    return mean, std


def pooled(output: Any) -> Tensor:
    """Return the projected features: transformers 5 returns them inside an output object, older versions directly."""
    return output if isinstance(output, Tensor) else output.pooler_output
