"""Images of converted public sets: those inside tables and tar files are written, files stay where they are."""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from srpo_ray.data.pair_rows import SAME, Picture, UnusableRowError
from srpo_ray.decode_image import SUFFIXES

IMAGES = "images"
"""Folder of the images from inside tables and tar files, beside the file for `data.pairs`."""
MISSING_FILE = "with a missing image file"
"""Reason to leave out a row whose image file does not exist."""
_SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "GIF": ".gif",
    "TIFF": ".tif",
    "AVIF": ".avif",
}


@dataclass
class PlacedImages:
    """Images of the file for `data.pairs`. Those inside tables and tar files are written when they first occur."""

    folder: Path
    """Folder of the file for `data.pairs`."""
    root: Path
    """Folder of a set's own image files."""
    names: set[str] = field(default_factory=set)
    """Paths of the images relative to `folder`."""
    hashes: dict[str, str] = field(default_factory=dict)
    """Identity of an image inside a table or tar file -> hash of the first bytes that it had."""
    changed: set[str] = field(default_factory=set)
    """Identities that other bytes had too."""
    resolved: dict[str, str] = field(default_factory=dict)
    """Path of an image relative to `folder` -> its path without symbolic links."""

    def place(self, images: Sequence[Picture]) -> list[str]:
        """Return the paths of the images of a row, relative to `folder`.

        Raises:
            UnusableRowError: If one of them cannot be used, or two are the same file; then none is written.
        """
        found = [self._file(image) if image.content is None else self._new_name(image) for image in images]
        if len({self.resolve(name) for name in found}) < len(found):
            raise UnusableRowError(SAME)
        for name, image in zip(found, images, strict=True):
            new = name not in self.names
            # Named first, so that a file that cannot be written to its end is removed.
            self.names.add(name)
            if new and image.content is not None:
                (self.folder / IMAGES).mkdir(parents=True, exist_ok=True)
                (self.folder / name).write_bytes(image.content)
        return found

    def resolve(self, name: str) -> str:
        """Return the path of an image without symbolic links."""
        if name not in self.resolved:
            self.resolved[name] = os.path.realpath(self.folder / name)
        return self.resolved[name]

    def _file(self, image: Picture) -> str:
        assert image.path is not None, "an image has a path or its bytes"
        file = self.root / image.path
        try:
            name = relative_path(file, self.folder)
            missing = name not in self.names and not file.is_file()
        except (OSError, RuntimeError, ValueError) as error:
            # Such as a name that is too long or contains NUL, or a loop of symbolic links (RuntimeError).
            raise UnusableRowError(MISSING_FILE) from error
        if missing:
            raise UnusableRowError(MISSING_FILE)
        if file.suffix.lower() not in SUFFIXES:
            raise UnusableRowError(f"with an image file of another suffix than {', '.join(SUFFIXES)}")
        return name

    def _new_name(self, image: Picture) -> str:
        """Path of an image to write, relative to `folder`. An identity with other bytes gets another name."""
        assert image.content is not None, "an image inside a table or tar file has bytes"
        digest = hashlib.sha256(image.content).hexdigest()[:32]
        stem = image.name or digest
        if not re.fullmatch(r"[\w-]+", stem):
            raise UnusableRowError("with an image uid of other characters than letters, digits, _ and -")
        suffix = _suffix(image.content)
        if self.hashes.setdefault(stem, digest) != digest:
            self.changed.add(stem)
            stem = f"{stem}-{digest}"
        return f"{IMAGES}/{stem}{suffix}"


def relative_path(file: Path, folder: Path) -> str:
    """Return the path of an image relative to a folder.

    Links to folders are followed, because `..` behind one leaves the folder that it names. The last part is not: the
    file that a link names may have another suffix.
    """
    return Path(os.path.relpath(file.parent.resolve() / file.name, folder.resolve())).as_posix()


def _suffix(content: bytes) -> str:
    try:
        with Image.open(BytesIO(content)) as image:
            return _SUFFIXES[image.format or ""]
    except (UnidentifiedImageError, Image.DecompressionBombError, KeyError) as error:
        raise UnusableRowError(f"with bytes that are no image of {', '.join(_SUFFIXES)}") from error
