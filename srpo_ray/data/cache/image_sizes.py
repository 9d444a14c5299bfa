"""Heights and widths of real images on disk, which a run of several sizes reads once."""

from collections.abc import Sequence
from pathlib import Path

from srpo_ray.config import RunConfig
from srpo_ray.config.size import ImageSize
from srpo_ray.data.cache.latents import image_key
from srpo_ray.data.cache.shards import ShardStore
from srpo_ray.data.cache.text_features import cache_root
from srpo_ray.data.images import RealImages

_SIZE = "size"


class ImageSizeCache:
    """Height and width of each image."""

    def __init__(self, root: Path) -> None:
        """Open the cache.

        Args:
            root: Folder of all caches.
        """
        self.store = ShardStore(root / "image_sizes")

    @classmethod
    def of(cls, config: RunConfig) -> "ImageSizeCache":
        """Open the cache of a run."""
        return cls(cache_root(config))

    def missing(self, images: RealImages) -> list[int]:
        """Return the indices of images without an intact size; see `ShardStore.missing`."""
        return self.store.missing([image_key(identity) for identity in images.identities])

    def add(self, images: RealImages, indices: Sequence[int]) -> None:
        """Read the sizes of images, and write them as one shard.

        Raises:
            ValueError: If an image cannot be read.
        """
        self.store.add([image_key(images.identities[index]) for index in indices], {_SIZE: images.sizes(indices)})

    def sizes(self, images: RealImages) -> list[ImageSize]:
        """Return the size of each image, all of which have been read.

        Raises:
            ValueError: If one has not been read.
        """
        rows = self.store.rows([image_key(identity) for identity in images.identities])
        return [ImageSize(*size) for size in rows[range(len(rows))][_SIZE].tolist()] if len(rows) else []
