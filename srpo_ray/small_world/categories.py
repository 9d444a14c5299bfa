"""Tasks of GenEval (arXiv 2310.11513) in the small world, judged by the true content of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations

import torch
from torch import Tensor

from srpo_ray.small_world.content_truth import objects_of
from srpo_ray.small_world.prompts import Content, parse_prompt
from srpo_ray.small_world.truth import corner_loss, object_mask, without_vignette

Found = tuple[int, int, float, float]
"""Index of the colour, index of the shape, and centre x, y of an object."""


def tasks_of(prompt: str) -> tuple[str, ...]:
    """Return the tasks that a prompt of the small world belongs to, by GenEval's names.

    A caption has an object, several equal ones, or a pair, always with colours. One that GenEval's prompts would not
    have in a task, such as a colour in `two_object`, is judged there without it.
    """
    return tuple(_TASKS[parse_prompt(prompt)[1].kind])


@torch.no_grad()
def judge_tasks(images: Tensor, prompts: Sequence[str]) -> list[dict[str, bool]]:
    """Judge images by the tasks of their prompts.

    Args:
        images: [B, 3, 64, 64] in [0, 1].
        prompts: B prompts of the small world.

    Returns:
        For each image, task of `tasks_of` -> whether the image is correct.
    """
    images = images.detach().float().cpu().clamp(0, 1)
    images = without_vignette(images, corner_loss(images))
    judged = []
    for image, mask, prompt in zip(images, object_mask(images), prompts, strict=True):
        content, found = parse_prompt(prompt)[1], objects_of(image, mask)
        judged.append({task: correct(content, found) for task, correct in _TASKS[content.kind].items()})
    return judged


def _shown(content: Content, found: Sequence[Found], *, color: bool = False, position: bool = False) -> bool:
    """Test if objects of an image have the shapes of the caption, and optionally its colours or its relation."""
    return any(
        all(
            kind[1] == seen[1] and (not color or kind[0] == seen[0])
            for kind, seen in zip(content.objects, chosen, strict=True)
        )
        and (not position or _placed(content, chosen))
        for chosen in permutations(found, len(content.objects))
    )


def _placed(content: Content, chosen: Sequence[Found]) -> bool:
    axis = 2 if content.relation == "left of" else 3
    return chosen[0][axis] < chosen[1][axis]


def _counted(content: Content, found: Sequence[Found]) -> bool:
    """Test if the image has exactly the caption's number of objects of its shape."""
    return sum(seen[1] == content.objects[0][1] for seen in found) == len(content.objects)


_TASKS: dict[str, dict[str, Callable[[Content, Sequence[Found]], bool]]] = {
    "one": {"single_object": _shown, "colors": lambda content, found: _shown(content, found, color=True)},
    "equal": {"counting": _counted},
    "pair": {
        "two_object": _shown,
        "position": lambda content, found: _shown(content, found, position=True),
        "color_attr": lambda content, found: _shown(content, found, color=True),
    },
}
"""Kind of a content -> its tasks -> the test of an image."""
