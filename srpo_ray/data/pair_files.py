"""Writes pairs of public sets as the `.jsonl` file that `data.pairs` reads, with the images of tables beside it."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from srpo_ray.data.pair_sets import PAIR_SETS, Pair, PairSet, Picture, read_set
from srpo_ray.files import write_text

FILE, IMAGES = "pairs.jsonl", "images"
_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif", "TIFF": ".tif"}


@dataclass(frozen=True)
class Converted:
    """Result of a conversion."""

    path: Path
    pairs: int
    pictures: int
    """Number of different images."""
    left_out: Counter[str]
    """Reason -> rows or comparisons without a pair."""
    weight: str | None = None
    """Formula of the confidence of the rows; None if they have none."""
    unweighed: int = 0
    """Pairs whose row states no weight; their confidence is 1."""

    def __str__(self) -> str:
        parts = [f"{count} {reason}" for reason, count in sorted(self.left_out.items()) if count]
        rest = f", left out: {', '.join(parts)}" if parts else ""
        return f"{self.path}: {self.pairs} pairs of {self.pictures} images{rest}{self._confidence}"

    @property
    def _confidence(self) -> str:
        if self.weight is None:
            return ""
        without = f", 1 for {self.unweighed} rows without it" if self.unweighed else ""
        return f"; confidence is {self.weight}{without}: train with algorithm.weights=confidence"


def convert(
    known: PairSet,
    sources: Sequence[Path],
    folder: Path,
    images: Path | None = None,
    limit: int | None = None,
    *,
    confidence: bool = False,
) -> Converted:
    """Convert downloaded files of a set.

    Args:
        known: The set.
        sources: Its files.
        folder: Folder of the new `pairs.jsonl`, and of the images of tables.
        images: Folder that paths of images are relative to; None takes that of the first source. The images stay there.
        limit: Most pairs; None takes all.
        confidence: Write the weight that the set states for a row as its `confidence`.

    Raises:
        ValueError: If the folder has a pair file, a source is not of the set, the set states no weight that was asked
            for, no pair is left, or the folder cannot be written.
    """
    if (folder / FILE).exists():
        raise ValueError(f"expected a folder without {FILE}, got {folder}; choose another one, or remove the file")
    if wrong := [str(source) for source in sources if source.suffix.lower() != known.suffix]:
        raise ValueError(f"expected {known.suffix} files with --set {known.name}, got {', '.join(wrong)}")
    if confidence and known.weight is None:
        stated = " or ".join(each.name for each in PAIR_SETS.values() if each.weight)
        raise ValueError(
            f"--confidence: expected --set {stated}, got {known.name}, which states no weight; leave it out"
        )
    left_out: Counter[str] = Counter()
    root = images or sources[0].parent
    names: set[str] = set()
    found = islice(read_set(known, sources, left_out, confidence=confidence), limit)
    try:
        with _removed_on_failure(folder, names):
            rows = list(_rows(found, folder, root, names))
            if not rows:
                reasons = f"got none ({dict(left_out)})"
                raise ValueError(f"expected at least one pair in {', '.join(map(str, sources))}, {reasons}")
            write_text(folder / FILE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    except OSError as error:
        raise ValueError(f"--to: expected a writable folder, got {folder} ({error}); choose another") from error
    weight = known.weight.text if confidence and known.weight else None
    unweighed = sum("confidence" not in row for row in rows) if weight else 0
    return Converted(folder / FILE, len(rows), len(names), left_out, weight, unweighed)


@contextmanager
def _removed_on_failure(folder: Path, names: set[str]) -> Iterator[None]:
    """Remove the images that a block writes, and the folders that it makes, if it fails.

    Args:
        folder: Folder of the pair file.
        names: Paths of the images so far, which grow in the block. Files that were there before it stay.
    """
    images = folder / IMAGES
    before = {file.name for file in images.iterdir()} if images.is_dir() else set[str]()
    made = [each for each in (images, folder, *folder.parents) if not each.exists()]
    try:
        yield
    except BaseException:
        for file in (folder / name for name in names):
            # Images of sets in JSON have their own folders and are not written.
            if file.parent == images and file.name not in before:
                file.unlink(missing_ok=True)
        for each in made:
            # Another process may have put a file there.
            with suppress(OSError):
                each.rmdir()
        raise


def _rows(pairs: Iterator[Pair], folder: Path, root: Path, names: set[str]) -> Iterator[dict[str, Any]]:
    """Make the row of each pair; `names` collects the paths of its images."""
    for pair in pairs:
        preferred, other = (_place(picture, folder, root, names) for picture in (pair.preferred, pair.other))
        row = {"preferred": preferred, "other": other, "prompt": pair.prompt}
        optional = {"confidence": pair.confidence, "annotator": pair.annotator}
        yield row | {key: value for key, value in optional.items() if value is not None}


def _place(picture: Picture, folder: Path, root: Path, names: set[str]) -> str:
    """Path of an image relative to the pair file. The image of a table is written when it first occurs."""
    if picture.content is None:
        assert picture.path is not None, "a picture has a path or its bytes"
        found = relative_path(root / picture.path, folder)
        names.add(found)
        return found
    stem = picture.name or hashlib.sha256(picture.content).hexdigest()[:32]
    if not re.fullmatch(r"[\w-]+", stem):
        raise ValueError(f"expected an identity of letters, digits and - for an image, got {stem!r}")
    found = f"{IMAGES}/{stem}{_suffix(picture.content, stem)}"
    if found not in names:
        (folder / IMAGES).mkdir(parents=True, exist_ok=True)
        names.add(found)
        (folder / found).write_bytes(picture.content)
    return found


def relative_path(file: Path, folder: Path) -> str:
    """Return the path of an image relative to a folder.

    Links to folders are followed, because `..` behind one leaves the folder that it names. The last part is not: the
    file that a link names may have another suffix.
    """
    return Path(os.path.relpath(file.parent.resolve() / file.name, folder.resolve())).as_posix()


def _suffix(content: bytes, name: str) -> str:
    try:
        with Image.open(BytesIO(content)) as image:
            return _SUFFIXES[image.format or ""]
    except (UnidentifiedImageError, KeyError) as error:
        raise ValueError(f"expected an image of {', '.join(_SUFFIXES)}, got other bytes in {name}") from error
