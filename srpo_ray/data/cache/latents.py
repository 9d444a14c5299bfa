"""Cache of the latents of real images, so that no update waits for image files or the VAE's encoder."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from srpo_ray.config import RunConfig
from srpo_ray.data.cache.shards import Rows, ShardStore
from srpo_ray.data.cache.text_features import cache_root
from srpo_ray.data.images import RealImages
from srpo_ray.models.content_hash import parts_identity
from srpo_ray.models.paths import resolve_path
from srpo_ray.models.trainable import model_dtype

TOKENS = "tokens"
_BATCH_SIZE = 4
"""Images per call of the VAE: several GiB of activations at 1024 x 1024 pixels."""


class LatentCache:
    """Clean tokens of images for one VAE, resolution and data type."""

    def __init__(self, path: str, resolution: int | tuple[int, int], dtype: torch.dtype, root: Path) -> None:
        """Open the cache of a VAE.

        Args:
            path: Folder or hub id of the pipeline.
            resolution: Height and width of the images in pixels; one number for squares.
            dtype: Data type of the VAE.
            root: Folder of all caches; each VAE, resolution and data type has a separate folder in it.
        """
        self._resolution = resolution
        identity = f"{parts_identity(path, ('vae',))} {resolution} {dtype}"
        self.store = ShardStore(root / "latents" / hashlib.sha256(identity.encode()).hexdigest()[:16])

    @classmethod
    def of(cls, config: RunConfig) -> "LatentCache":
        """Open the cache of a run's model."""
        path = resolve_path(config.model.path)
        return cls(path, config.model.size.resolution, model_dtype(config), cache_root(config))

    def missing(self, images: RealImages, indices: Sequence[int] | None = None) -> list[int]:
        """Return the indices of images without intact latents; see `ShardStore.missing`.

        Args:
            images: The source.
            indices: Indices of its images to look for; None looks for all.
        """
        wanted = range(len(images.identities)) if indices is None else indices
        return [wanted[index] for index in self.store.missing([image_key(images.identities[each]) for each in wanted])]

    def tokens(self, images: RealImages, indices: Sequence[int] | None = None) -> Rows:
        """Return the clean tokens `[N, 64]`, under the name `TOKENS`, of images that have all been encoded.

        Args:
            images: The source.
            indices: Indices of its images; None returns all.

        Raises:
            ValueError: If an image has not been encoded.
        """
        wanted = range(len(images.identities)) if indices is None else indices
        return self.store.rows([image_key(images.identities[index]) for index in wanted])

    def add(self, images: RealImages, indices: Sequence[int], encode: Callable[[Tensor], Tensor]) -> None:
        """Encode images and write them as one shard.

        Args:
            images: The source.
            indices: Indices of its images to encode.
            encode: Maps images `[B, 3, H, W]` in [0, 1] to tokens `[B, N, 64]`.

        Raises:
            ValueError: If an image cannot be read.
        """
        batches = [indices[start : start + _BATCH_SIZE] for start in range(0, len(indices), _BATCH_SIZE)]
        tokens = torch.cat([encode(images.load(batch, self._resolution)).cpu() for batch in batches])
        self.store.add([image_key(images.identities[index]) for index in indices], {TOKENS: tokens})


def image_key(identity: str) -> str:
    """Return the key of an image in a cache."""
    return hashlib.sha256(identity.encode()).hexdigest()[:32]
