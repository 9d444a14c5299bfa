"""Real images with captions, which replace rollouts; images are read on demand, captions at once."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image, ImageOps
from torch import Tensor

from srpo_ray.config.size import ImageSize
from srpo_ray.data.image_listing import count_types, describe, list_source
from srpo_ray.data.image_sources import Entry, folder_entries
from srpo_ray.data.image_tables import PARQUET, parquet_entries
from srpo_ray.data.image_tars import TAR, tar_entries
from srpo_ray.decode_image import SUFFIXES, decode_image

EMBEDDED = "small_world:realistic"
_DECODERS = 8


class RealImages(Protocol):
    """Images and their captions, in the same order."""

    @property
    def captions(self) -> list[str]:
        """Caption of each image."""
        ...

    @property
    def identities(self) -> list[str]:
        """Cache key of each image, unique and stable between runs."""
        ...

    @property
    def note(self) -> str | None:
        """Note for the user about the source; None if there is none."""
        ...

    def load(self, indices: Sequence[int], resolution: int | tuple[int, int]) -> Tensor:
        """Read images `[B, 3, H, W]` in [0, 1] of a height and width; one number for squares."""
        ...

    def sizes(self, indices: Sequence[int]) -> Tensor:
        """Read the heights and widths of images `[B, 2]`, as they are before `load` resizes them."""
        ...


class CaptionedImages:
    """Images of files, tar files or tables."""

    def __init__(self, source: str, entries: list[Entry], left_out: str, key: str) -> None:
        """Wrap listed images.

        Args:
            source: Folder, file or pattern, for messages.
            entries: The images.
            left_out: English description of the skipped files; empty if there are none.
            key: Config key of the source, for messages.
        """
        self._entries, self._key = entries, key
        self._identities: list[str] | None = None
        self.left_out = left_out
        self.note = f"{source}: {_count(entries)}, left out: {left_out}" if left_out else None
        self.names = [entry.name for entry in entries]
        self.captions = [entry.caption for entry in entries]

    @property
    def identities(self) -> list[str]:
        """Cache key of each image: its path relative to the source, and a hash of the beginning and end of its file.

        Raises:
            ValueError: If a file cannot be read.
        """
        if self._identities is not None:
            return self._identities
        try:
            with ThreadPoolExecutor(_DECODERS) as readers:
                self._identities = list(readers.map(lambda entry: entry.identity(), self._entries))
            return self._identities
        except OSError as error:
            raise ValueError(f"{self._key}: expected readable images, got {error}; replace or remove them") from error

    def load(self, indices: Sequence[int], resolution: int | tuple[int, int]) -> Tensor:
        """Read images `[B, 3, H, W]` in [0, 1], resized until they cover height and width, and centre-cropped.

        Raises:
            ValueError: If some cannot be read; the message names them.
        """
        size = ImageSize.of(resolution)
        shape = (size.width, size.height)
        return torch.stack(
            self.decode(indices, lambda image: to_tensor(ImageOps.fit(image, shape, Image.Resampling.BICUBIC)))
        )

    def sizes(self, indices: Sequence[int]) -> Tensor:
        """Read the heights and widths of images `[B, 2]`.

        Raises:
            ValueError: If some cannot be read; the message names them.
        """
        return torch.stack(self.decode(indices, lambda image: torch.tensor([image.height, image.width])))

    def decode(self, indices: Sequence[int], prepare: Callable[[Image.Image], Tensor]) -> list[Tensor]:
        """Decode images of any size.

        Args:
            indices: Indices of images.
            prepare: Function of a decoded image, upright and of mode RGB; called in several threads.

        Returns:
            Results of `prepare` in the order of `indices`.

        Raises:
            ValueError: If some cannot be read; the message names them.
        """
        entries = [self._entries[index] for index in indices]
        with ThreadPoolExecutor(_DECODERS) as decoders:
            found = list(decoders.map(lambda entry: _decoded(entry, prepare), entries))
        broken = [f"{entry.name} ({found[i]})" for i, entry in enumerate(entries) if isinstance(found[i], Exception)]
        if broken:
            raise ValueError(
                f"{self._key}: expected readable images, got {len(broken)} of {len(entries)} that are not:"
                f" {', '.join(broken[:3])}{', ...' if len(broken) > 3 else ''}; replace or remove them"
            )
        return [image for image in found if isinstance(image, Tensor)]


def load_images(source: str, key: str = "data.images") -> RealImages:
    """Open a source of real images, each with a caption.

    Args:
        source: Folder of images, .tar or .parquet file, folder or glob pattern of such files, or
            `small_world:realistic`. Subfolders are read too.
        key: Config key of the source, for messages.

    Raises:
        ValueError: If there is no image, an image has no caption, or a file cannot be read.
    """
    if source == EMBEDDED:
        from srpo_ray.small_world.photographs import RealisticScenes

        return RealisticScenes()
    images = list_images(source, key)
    if not images.captions:
        others = f" that is read (left out: {images.left_out})" if images.left_out else ""
        raise ValueError(
            f"{key}: expected a folder with {', '.join(SUFFIXES)} files, {TAR} or {PARQUET} files, or {EMBEDDED}, got"
            f" {source!r} with none{others}; check the path (working folder: {Path.cwd()})"
        )
    missing = [name for name, caption in zip(images.names, images.captions, strict=True) if not caption]
    if missing:
        raise ValueError(
            f"{key}: expected a caption beside every image of {source}, got none in {len(missing)} of"
            f" {len(images.captions)} ({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}); add them or"
            " remove the images"
        )
    return images


def list_images(source: str, key: str) -> CaptionedImages:
    """Open a source of real images, which may be empty; an image without a caption has the caption `""`.

    Args:
        source: As for `load_images`, without the embedded source.
        key: Config key or argument of the source, for messages.

    Raises:
        ValueError: If a file cannot be read, or the source mixes images, tar files and tables.
    """
    listing = list_source(source, key)
    tars = [file for file in listing.files if file.suffix.lower() == TAR]
    tables = [file for file in listing.files if file.suffix.lower() == PARQUET]
    images = [file for file in listing.files if file.suffix.lower() in SUFFIXES]
    if sum(map(bool, (tars, tables, images))) > 1:
        raise ValueError(
            f"{key}: expected images, {TAR} or {PARQUET} files in {source}, got {len(images)}, {len(tars)} and"
            f" {len(tables)} of them; keep one kind in it, or name them by a pattern like {source}/*{TAR}"
        )
    left_out = listing.left_out
    if tars:
        entries, unused = tar_entries(listing, tars, key)
    elif tables:
        entries, unused = parquet_entries(listing, tables, key), Counter()
    else:
        entries, unused = folder_entries(listing, key)
    if tars or tables:
        unused += count_types(file for file in listing.files if file not in {*tars, *tables})
    left_out += unused
    return CaptionedImages(source, entries, describe(left_out), key)


def to_tensor(image: Image.Image) -> Tensor:
    """Convert an image of mode RGB to pixels `[3, H, W]` in [0, 1]."""
    # The import takes seconds, and a driver or a trial only lists captions.
    from torchvision.transforms.functional import pil_to_tensor

    return pil_to_tensor(image).float() / 255


def _decoded(entry: Entry, prepare: Callable[[Image.Image], Tensor]) -> Tensor | Exception:
    try:
        image = decode_image(entry.read())
    except (OSError, ValueError) as error:
        return error
    return prepare(image)


def _count(entries: Sequence[Entry]) -> str:
    return "1 image" if len(entries) == 1 else f"{len(entries)} images"
