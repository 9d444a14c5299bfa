"""Sizes of images that a model can draw, from the configs of its parts."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from srpo_ray.config.size import ImageSize, nearest_sizes
from srpo_ray.models.latents import vae_shape
from srpo_ray.models.paths import pipeline_file, resolve_path, unreadable

PartConfig = Callable[[str], Mapping[str, Any]]
"""Function that reads the `config.json` of a part of a pipeline: `vae` or `transformer`."""


def check_sizes(path: str, sizes: Mapping[str, ImageSize], read: PartConfig) -> None:
    """Check that a model can draw images of some sizes.

    A side must be a multiple of two latents, each of the autoencoder's factor in pixels. A transformer with a table of
    positions, as that of SD3, limits the side too.

    Args:
        path: `model.path`, for messages.
        sizes: Config key or option -> size of images.
        read: Reads the configs of the model's parts.

    Raises:
        ValueError: If it cannot draw one of them.
    """
    step, most = size_step(read), read("transformer").get("pos_embed_max_size")
    for key, size in sizes.items():
        if any(side % step for side in size):
            raise ValueError(
                f"{key}: expected multiples of {step} pixels, which are two latents of {path}, got {size}; choose a"
                f" size near it ({nearest_sizes(size, step)})"
            )
        if most and max(size) > most * step:
            raise ValueError(
                f"{key}: expected at most {most * step} pixels for {path}, which has {most}x{most} positions, got"
                f" {size}; lower it"
            )


def size_step(read: PartConfig) -> int:
    """Return the pixels of two latents of a model, of which every side of an image is a multiple.

    Args:
        read: Reads the configs of the model's parts.
    """
    return 2 * vae_shape(read("vae"))[0]


def stored_config(path: str) -> PartConfig:
    """Build the function that reads the configs of a pipeline's parts from its folder or the hub.

    Args:
        path: Folder or hub id of the pipeline, or `small_world`.

    Returns:
        The function; it raises a ValueError if there is no such config, or it cannot be read.
    """

    def read(part: str) -> Mapping[str, Any]:
        file = pipeline_file(resolve_path(path), f"{part}/config.json")
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(unreadable(path, part, error)) from error

    return read
