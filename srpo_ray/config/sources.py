"""Sources that a config may spell in several ways: two paths of one file, two names of one checkpoint."""

import os
from typing import Any

from srpo_ray.config.rewards import RewardModelSection

_PATHS = ("path", "backbone")
_ARCHITECTURE = ("type", "architecture", "target", "arguments")


def same_source(one: str, other: str) -> bool:
    """Compare two paths, hub ids or embedded names; a path may be relative, contain `..` or lead through links."""
    return _spelling(one) == _spelling(other)


def same_model(one: RewardModelSection, other: RewardModelSection) -> bool:
    """Compare the checkpoints behind two reward models, as far as a config describes them.

    The type, the architecture and the source of the weights count, or a checkpoint's hash. A factor of the score and
    the preparation of images do not: the scores of both rank images alike.
    """
    hashes = {getattr(model, "sha256", None) for model in (one, other)}
    if getattr(one, "type", None) == getattr(other, "type", None) and len(hashes) == 1 and None not in hashes:
        return True
    return _identity(one) == _identity(other)


def _identity(model: RewardModelSection) -> list[Any]:
    paths = [getattr(model, name, None) for name in _PATHS]
    return [*(getattr(model, name, None) for name in _ARCHITECTURE), *(path and _spelling(path) for path in paths)]


def _spelling(source: str) -> str:
    local = source.removeprefix("local-dir:")
    # The Hugging Face hub does not tell upper from lower case; a file system may.
    return os.path.realpath(local) if os.path.exists(local) else os.path.normpath(local).casefold()
