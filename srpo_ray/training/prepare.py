"""Text features and image latents: computed once before the first update, if the cache lacks them."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from srpo_ray.config import RunConfig
from srpo_ray.config.size import ImageSize
from srpo_ray.data.cache.image_sizes import ImageSizeCache
from srpo_ray.data.cache.latents import LatentCache
from srpo_ray.data.cache.shards import ROWS, Rows
from srpo_ray.data.cache.text_features import TextCache
from srpo_ray.data.images import RealImages
from srpo_ray.data.sizes import nearest_size
from srpo_ray.runs.activity import end_activity, report_activity
from srpo_ray.runs.collectives import from_worker_0
from srpo_ray.runs.folder import RunFolder

T = TypeVar("T")


def prepare_features(config: RunConfig, texts: Sequence[str], folder: RunFolder, device: str) -> TextCache:
    """Let worker 0 encode the texts that the cache lacks, and then free the text encoders. The other workers wait.

    Args:
        config: The run.
        texts: All texts whose features the run needs.
        folder: Run folder, for the progress.
        device: Device of the encoders.

    Returns:
        Cache with the features of all texts.
    """
    cache = TextCache.of(config)
    missing = from_worker_0(lambda: cache.missing(texts))
    # Keep no reference to the encoders: the model needs their memory.
    _in_rounds(
        "text features", missing, cache.load_encoder(device) if missing and dist.get_rank() == 0 else None, 1, folder
    )
    if device != "cpu":
        torch.cuda.empty_cache()
    return cache


def prepare_image_sizes(
    config: RunConfig, images: RealImages, groups: Sequence[tuple[int, ...]], folder: RunFolder
) -> list[ImageSize]:
    """Choose the size that the images of each caption get. Every worker reads images that the cache lacks.

    Args:
        config: The run.
        images: Real or judged images of the run.
        groups: Indices of the images of each caption.
        folder: Run folder, for the progress.

    Raises:
        ValueError: If an image cannot be read.
    """
    sizes = config.model.all_sizes
    if len(sizes) == 1:
        return [*sizes] * len(groups)
    cache = ImageSizeCache.of(config)
    missing = from_worker_0(lambda: cache.missing(images))
    _in_rounds("sizes of images", missing, lambda part: cache.add(images, part), dist.get_world_size(), folder)
    own = cache.sizes(images)
    return [nearest_size([own[index] for index in group], sizes) for group in groups]


def prepare_latents(
    config: RunConfig,
    images: RealImages,
    groups: Sequence[tuple[int, ...]],
    sizes: Sequence[ImageSize],
    encode: Callable[[Tensor], Tensor],
    folder: RunFolder,
) -> Rows:
    """Let every worker encode its share of the images that the cache lacks, each once for every size that it gets.

    Args:
        config: The run.
        images: Real or judged images of the run.
        groups: Indices of the images of each caption.
        sizes: Size of the images of each caption.
        encode: Function from images to tokens, such as `FlowPolicy.encode`.
        folder: Run folder, for the progress.

    Returns:
        Clean tokens of the images of all captions, one caption after the other, read on access.

    Raises:
        ValueError: If an image cannot be read.
    """
    parts: list[tuple[list[int], Rows]] = []
    wanted = [(index, size) for group, size in zip(groups, sizes, strict=True) for index in group]
    for run in config.at_sizes:
        cache = LatentCache.of(run)
        places = [place for place, (_, size) in enumerate(wanted) if size == run.model.size]
        chosen = [wanted[place][0] for place in places]
        missing = from_worker_0(lambda cache=cache, chosen=chosen: cache.missing(images, sorted(set(chosen))))
        _in_rounds(
            "latents",
            missing,
            lambda part, cache=cache: cache.add(images, part, encode),
            dist.get_world_size(),
            folder,
        )
        parts.append((places, cache.tokens(images, chosen)))
    return Rows.joined(parts)


def _in_rounds(
    what: str, items: list[T], encode: Callable[[list[T]], object] | None, num_workers: int, folder: RunFolder
) -> None:
    """Encode items in parts, one per worker and round.

    The workers synchronise after each round, because a collective has a timeout.

    Args:
        what: Label of the progress.
        items: Items to encode, the same on every worker.
        encode: Function that encodes a part and writes it; None on workers without a part.
        num_workers: Number of workers that encode, from rank 0.
        folder: Run folder, for the progress.
    """
    rank = dist.get_rank()
    size = max(1, min(ROWS, -(-len(items) // num_workers)))
    for start in range(0, len(items), size * num_workers):
        if rank == 0:
            report_activity(folder, what, start, len(items))
        part = items[start + rank * size : start + (rank + 1) * size]
        if encode and part:
            encode(part)
        dist.barrier()
    if rank == 0:
        end_activity(folder)
