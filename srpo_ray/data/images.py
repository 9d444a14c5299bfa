"""Real pictures with captions, in place of rollouts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

EMBEDDED = "small_world:realistic"
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class RealImages(Protocol):
    """Pictures and their captions, in one order."""

    @property
    def captions(self) -> list[str]:
        """Caption of each picture."""
        ...

    def load(self, indices: Sequence[int], resolution: int) -> Tensor:
        """Pictures `[B, 3, resolution, resolution]` in [0, 1]."""
        ...


@dataclass(frozen=True)
class ImageFolder:
    """Picture files, each beside a .txt file with its caption."""

    files: list[Path]
    captions: list[str]

    def load(self, indices: Sequence[int], resolution: int) -> Tensor:
        """Pictures `[B, 3, resolution, resolution]` in [0, 1]: the short side resized, the middle cut out."""
        return torch.stack([_read(self.files[index], resolution) for index in indices])


def load_images(source: str, key: str = "data.images") -> RealImages:
    """Open a source of real pictures.

    Args:
        source: Folder, or `small_world:realistic`.
        key: Config key that the source came from, for messages.

    Raises:
        ValueError: If there is no picture, or one has no caption.
    """
    if source == EMBEDDED:
        from srpo_ray.small_world.realistic import RealisticScenes

        return RealisticScenes()
    folder = Path(source)
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in _SUFFIXES) if folder.is_dir() else []
    if not files:
        raise ValueError(
            f"{key}: expected a folder with {', '.join(_SUFFIXES)} files or {EMBEDDED}, got {source!r} with none;"
            f" check the path (working folder: {Path.cwd()})"
        )
    texts = [file.with_suffix(".txt") for file in files]
    missing = [text.name for text in texts if not text.is_file() or not text.read_text(encoding="utf-8").strip()]
    if missing:
        raise ValueError(
            f"{key}: expected a caption beside every picture of {source}, got none in {len(missing)} of {len(files)}"
            f" ({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}); add them or remove the pictures"
        )
    return ImageFolder(files, [text.read_text(encoding="utf-8").strip() for text in texts])


def _read(file: Path, resolution: int) -> Tensor:
    try:
        with Image.open(file) as picture:
            fitted = ImageOps.fit(picture.convert("RGB"), (resolution, resolution), Image.Resampling.BICUBIC)
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(f"data.images: expected a readable picture, got {file} ({error}); remove it") from error
    return pil_to_tensor(fitted).float() / 255
