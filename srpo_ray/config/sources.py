"""Comparison of values with several spellings: two paths of one file, two names of one checkpoint, one text."""

import os
import re
import unicodedata
from typing import Any

from srpo_ray.config.rewards import RewardModelSection

_PATHS = ("path", "backbone", "questions")
_ARCHITECTURE = ("type", "architecture", "target", "arguments", "model", "template", "rubric")


def same_model(one: RewardModelSection, other: RewardModelSection) -> bool:
    """Compare the checkpoints of two reward models, as far as a config describes them.

    Either the type, the architecture and the source of the weights are compared, or a checkpoint's hash. A factor of
    the score and the image preprocessing are not compared: they do not change the ranking of images.
    """
    hashes = {getattr(model, "sha256", None) for model in (one, other)}
    if getattr(one, "type", None) == getattr(other, "type", None) and len(hashes) == 1 and None not in hashes:
        return True
    return _identity(one) == _identity(other)


def text_key(text: str) -> str:
    """Return a key that is equal for texts that differ only in case, white space or closing punctuation."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"[\s.,;:!?]+$", "", " ".join(plain.split()))


def _identity(model: RewardModelSection) -> list[Any]:
    paths = [getattr(model, name, None) for name in _PATHS]
    # A judge is its model, at whatever server; of another server only the address is known.
    address = getattr(model, "url", None) if getattr(model, "model", None) is None else None
    values = [getattr(model, name, None) for name in _ARCHITECTURE]
    return [*values, address, *(path and _spelling(path) for path in paths)]


def _spelling(source: str) -> str:
    local = source.removeprefix("local-dir:")
    # The Hugging Face hub ignores case; a file system may distinguish it.
    return os.path.realpath(local) if os.path.exists(local) else os.path.normpath(local).casefold()
