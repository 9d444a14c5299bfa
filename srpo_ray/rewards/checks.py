"""Checks of what callers pass to a scorer."""

from collections.abc import Sequence

from torch import Tensor

from srpo_ray.rewards.base import ScoreRequest
from srpo_ray.rewards.query import Pairs, TextQuery


def check_batch(images: Tensor, queries: Sequence[TextQuery]) -> None:
    """Raise ValueError unless the batch has at least one colour image and one query per image."""
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[0] == 0 or images.shape[0] != len(queries):
        raise ValueError(
            f"expected images [B, 3, H, W] with B >= 1 and one query each, received {tuple(images.shape)} and "
            f"{len(queries)} queries; a batch cannot be empty"
        )


def check_requests(images: Tensor, requests: Sequence[ScoreRequest], known: Sequence[str]) -> list[list[str]]:
    """Return the names of the models of each request.

    Raises:
        ValueError: If the batch is malformed, or a name is not one of the `known` ones.
    """
    found = [list(known) if request.names is None else list(request.names) for request in requests]
    for request, names in zip(requests, found, strict=True):
        check_batch(images, request.queries)
        check_names(names, known)
    return found


def check_pairs(pairs: Pairs, queries: Sequence[TextQuery]) -> None:
    """Raise ValueError unless there are pairs, each of two different images of the batch with the same query."""
    size = len(queries)
    wrong = [(i, j) for i, j in pairs if not (0 <= i < size and 0 <= j < size and i != j and queries[i] == queries[j])]
    if wrong or not pairs:
        raise ValueError(
            f"expected pairs of two different images with the same query among {size}, received"
            f" {wrong[0] if wrong else 'none'}; compare only images of the same prompt"
        )


def check_names(wanted: Sequence[str], known: Sequence[str]) -> None:
    """Raise ValueError if a requested reward model does not exist or none is requested."""
    unknown = sorted(set(wanted) - set(known))
    if unknown or not wanted:
        raise ValueError(
            f"expected names of reward models among {sorted(known)}, received {sorted(wanted)}; "
            f"remove {unknown} or add such models to `rewards.models`"
            if unknown
            else f"expected at least one name among {sorted(known)}, received none"
        )


def check_gradient(image_gradient: dict[str, bool]) -> None:
    """Raise ValueError if a reward whose gradient is needed for training has none."""
    without = sorted(name for name, has_gradient in image_gradient.items() if not has_gradient)
    if without:
        raise ValueError(
            f"expected differentiable rewards for images that require a gradient, received {without} with "
            "image_gradient=False; submit detached images, or train with an algorithm that needs no reward gradient"
        )
