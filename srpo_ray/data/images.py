"""Real pictures with captions, in place of rollouts; until they are asked for, only the captions are in memory."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from srpo_ray.data.image_sources import PARQUET, SUFFIXES, TAR, Entry, folder_entries, parquet_entries, tar_entries

EMBEDDED = "small_world:realistic"
_DECODERS = 8


class RealImages(Protocol):
    """Pictures and their captions, in one order."""

    @property
    def captions(self) -> list[str]:
        """Caption of each picture."""
        ...

    @property
    def identities(self) -> list[str]:
        """What tells each picture from all others, from one run to the next: the key of what is computed from it."""
        ...

    @property
    def note(self) -> str | None:
        """What a person should know of the source; None where there is nothing."""
        ...

    def load(self, indices: Sequence[int], resolution: int) -> Tensor:
        """Pictures `[B, 3, resolution, resolution]` in [0, 1]."""
        ...


class CaptionedImages:
    """Pictures of files, tar files or tables."""

    def __init__(self, entries: list[Entry], note: str | None = None) -> None:
        self._entries = entries
        self.note = note
        self.captions = [entry.caption for entry in entries]
        self.identities = [entry.identity for entry in entries]

    def load(self, indices: Sequence[int], resolution: int) -> Tensor:
        """Pictures `[B, 3, resolution, resolution]` in [0, 1]: the short side resized, the middle cut out.

        Raises:
            ValueError: If some cannot be read; it names them.
        """
        entries = [self._entries[index] for index in indices]
        with ThreadPoolExecutor(_DECODERS) as decoders:
            found = list(decoders.map(lambda entry: _decode(entry, resolution), entries))
        broken = [f"{entry.name} ({found[i]})" for i, entry in enumerate(entries) if isinstance(found[i], Exception)]
        if broken:
            raise ValueError(
                f"data.images: expected readable pictures, got {len(broken)} of {len(entries)} that are none:"
                f" {', '.join(broken[:3])}{', ...' if len(broken) > 3 else ''}; mend or remove them"
            )
        return torch.stack([picture for picture in found if isinstance(picture, Tensor)])


def load_images(source: str, key: str = "data.images") -> RealImages:
    """Open a source of real pictures.

    Args:
        source: Folder of pictures, .tar or .parquet file, folder or glob pattern of such files, or
            `small_world:realistic`.
        key: Config key that the source came from, for messages.

    Raises:
        ValueError: If there is no picture, one has no caption, or a file cannot be read.
    """
    if source == EMBEDDED:
        from srpo_ray.small_world.realistic import RealisticScenes

        return RealisticScenes()
    files = _files(source)
    tars = [file for file in files if file.suffix.lower() == TAR]
    tables = [file for file in files if file.suffix.lower() == PARQUET]
    pictures, strays = folder_entries(files)
    if sum(map(bool, (tars, tables, pictures))) > 1:
        raise ValueError(
            f"{key}: expected pictures, {TAR} or {PARQUET} files in {source}, got {len(pictures)}, {len(tars)} and"
            f" {len(tables)} of them; keep one kind in it, or name them by a pattern like {source}/*{TAR}"
        )
    entries = pictures
    if tars:
        entries, strays = tar_entries(tars, key)
    elif tables:
        entries, strays = parquet_entries(tables, key), 0
    if not entries:
        raise ValueError(
            f"{key}: expected a folder with {', '.join(SUFFIXES)} files, {TAR} or {PARQUET} files, or {EMBEDDED}, got"
            f" {source!r} with none; check the path (working folder: {Path.cwd()})"
        )
    missing = [entry.name for entry in entries if not entry.caption]
    if missing:
        raise ValueError(
            f"{key}: expected a caption beside every picture of {source}, got none in {len(missing)} of {len(entries)}"
            f" ({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}); add them or remove the pictures"
        )
    note = f"{source}: {len(entries)} pictures, {strays} captions without a picture left out" if strays else None
    return CaptionedImages(entries, note)


def _files(source: str) -> list[Path]:
    path = Path(source)
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file())
    if path.is_file():
        return [path]
    # A pattern has at least one of these; any other path has nothing at it.
    pattern = any(character in source for character in "*?[")
    return sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor)))) if pattern else []


def _decode(entry: Entry, resolution: int) -> Tensor | Exception:
    # Takes seconds to import, and a driver or a trial lists captions only.
    from torchvision.transforms.functional import pil_to_tensor

    try:
        with Image.open(io.BytesIO(entry.read())) as picture:
            # A camera that was held upright says so beside the pixels.
            upright = ImageOps.exif_transpose(picture).convert("RGB")
            fitted = ImageOps.fit(upright, (resolution, resolution), Image.Resampling.BICUBIC)
    except UnidentifiedImageError:
        return ValueError("no known format")
    # What else Pillow raises for a file that is no whole picture.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return error
    return pil_to_tensor(fitted).float() / 255
