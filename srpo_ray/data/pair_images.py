"""Images of the file that public sets are converted to: those of tables are written, files stay where they are."""

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
"""Folder of the images of tables, beside the file."""
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
    """Images of the pair file. Those of tables are written beside it when they first occur."""

    folder: Path
    """Folder of the pair file."""
    root: Path
    """Folder of a set's own image files."""
    names: set[str] = field(default_factory=set)
    """Paths of the images relative to the pair file."""
    hashes: dict[str, str] = field(default_factory=dict)
    """Identity of an image of a table -> hash of the first bytes that it had."""
    changed: set[str] = field(default_factory=set)
    """Identities that other bytes had too."""
    resolved: dict[str, str] = field(default_factory=dict)
    """Path of an image relative to the pair file -> its path without symbolic links."""

    def place(self, pictures: Sequence[Picture]) -> list[str]:
        """Return the paths of the images of a row, relative to the pair file.

        Raises:
            UnusableRowError: If one of them cannot be used, or two are the same file; then none is written.
        """
        found = [self._file(picture) if picture.content is None else self._new_name(picture) for picture in pictures]
        if len({self.resolve(name) for name in found}) < len(found):
            raise UnusableRowError(SAME)
        for name, picture in zip(found, pictures, strict=True):
            new = name not in self.names
            # Named first, so that a file that cannot be written to its end is removed.
            self.names.add(name)
            if new and picture.content is not None:
                (self.folder / IMAGES).mkdir(parents=True, exist_ok=True)
                (self.folder / name).write_bytes(picture.content)
        return found

    def resolve(self, name: str) -> str:
        """Return the path of an image without symbolic links."""
        if name not in self.resolved:
            self.resolved[name] = os.path.realpath(self.folder / name)
        return self.resolved[name]

    def _file(self, picture: Picture) -> str:
        assert picture.path is not None, "a picture has a path or its bytes"
        file = self.root / picture.path
        try:
            name = relative_path(file, self.folder)
            missing = name not in self.names and not file.is_file()
        except (OSError, ValueError) as error:
            # Such as a name that is too long or contains NUL.
            raise UnusableRowError(MISSING_FILE) from error
        if missing:
            raise UnusableRowError(MISSING_FILE)
        if file.suffix.lower() not in SUFFIXES:
            raise UnusableRowError(f"with an image file of another suffix than {', '.join(SUFFIXES)}")
        return name

    def _new_name(self, picture: Picture) -> str:
        """Path of an image of a table, relative to the pair file. An identity with other bytes gets another name."""
        assert picture.content is not None, "an image of a table has bytes"
        digest = hashlib.sha256(picture.content).hexdigest()[:32]
        stem = picture.name or digest
        if not re.fullmatch(r"[\w-]+", stem):
            raise UnusableRowError("with an image uid of other characters than letters, digits, _ and -")
        suffix = _suffix(picture.content)
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
