"""Writes pairs of public sets as the `.jsonl` file that `data.pairs` reads, with the images of tables beside it."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from srpo_ray.data.pair_rows import Pair, Picture, UnusableRowError
from srpo_ray.data.pair_sets import PAIR_SETS, PairSet, read_set
from srpo_ray.data.repeated_pairs import repeat_notes
from srpo_ray.decode_image import SUFFIXES
from srpo_ray.files import write_text

FILE, IMAGES = "pairs.jsonl", "images"
_MISSING = "with a missing image file"
_SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "GIF": ".gif",
    "TIFF": ".tif",
    "AVIF": ".avif",
}


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
    notes: Sequence[str] = ()
    """Notes for the user on the pairs."""

    def __str__(self) -> str:
        listed = _listed(self.left_out)
        rest = f", left out: {listed}" if listed else ""
        notes = "".join(f", {note}" for note in self.notes)
        return f"{self.path}: {self.pairs} pairs of {self.pictures} images{notes}{rest}{self._confidence}"

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
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--to: expected a writable folder, got {folder} (a file); choose another")
    if wrong := [str(source) for source in sources if source.suffix.lower() not in known.suffixes]:
        raise ValueError(
            f"expected {' or '.join(known.suffixes)} files with --set {known.name}, got {', '.join(wrong)}"
        )
    if confidence and known.weight is None:
        stated = " or ".join(each.name for each in PAIR_SETS.values() if each.weight)
        raise ValueError(
            f"--confidence: expected --set {stated}, got {known.name}, which states no weight; leave it out"
        )
    left_out: Counter[str] = Counter()
    # The folder is made with the first file in it, so that sources that cannot be used leave none.
    placed = _Images(folder, images or sources[0].parent)
    found = read_set(known, sources, left_out, confidence=confidence)
    try:
        with _removed_on_failure(folder, placed.names):
            rows = list(islice(_rows(found, placed, left_out), limit))
            if not rows:
                raise ValueError(
                    f"expected at least one pair of {known.title} ({known.files}) in {', '.join(map(str, sources))},"
                    f" got none ({_listed(left_out) or 'no rows'}); name another file or another --set"
                )
            write_text(folder / FILE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    except OSError as error:
        raise ValueError(f"--to: expected a writable folder, got {folder} ({error}); choose another") from error
    weight = known.weight.text if confidence and known.weight else None
    unweighed = sum("confidence" not in row for row in rows) if weight else 0
    notes = repeat_notes(((row["preferred"], row["prompt"]), (row["other"], row["prompt"])) for row in rows)
    if several := len(placed.changed):
        notes.append(f"{several} image uid{'s' * (several > 1)} with several images, each under a name of its own")
    return Converted(folder / FILE, len(rows), len(placed.names), left_out, weight, unweighed, notes)


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


def _listed(left_out: Counter[str]) -> str:
    hints = {_MISSING: " (download and unpack them, or name their folder with --images)"}
    found = sorted(left_out.items())
    return ", ".join(f"{count} {reason}{hints.get(reason, '')}" for reason, count in found if count)


def _rows(pairs: Iterator[Pair], images: "_Images", left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    """Make the row of each pair, and count the pairs with an image that cannot be used."""
    for pair in pairs:
        try:
            preferred, other = images.place([pair.preferred, pair.other])
        except UnusableRowError as reason:
            left_out[str(reason)] += 1
            continue
        row = {"preferred": preferred, "other": other, "prompt": pair.prompt}
        optional = {"confidence": pair.confidence, "annotator": pair.annotator}
        yield row | {key: value for key, value in optional.items() if value is not None}


@dataclass
class _Images:
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

    def place(self, pictures: Sequence[Picture]) -> list[str]:
        """Return the paths of the images of a row, relative to the pair file.

        Raises:
            UnusableRowError: If one of them cannot be used; then none is written.
        """
        found = [self._file(picture) if picture.content is None else self._new_name(picture) for picture in pictures]
        for name, picture in zip(found, pictures, strict=True):
            new = name not in self.names
            # Named first, so that a file that cannot be written to its end is removed.
            self.names.add(name)
            if new and picture.content is not None:
                (self.folder / IMAGES).mkdir(parents=True, exist_ok=True)
                (self.folder / name).write_bytes(picture.content)
        return found

    def _file(self, picture: Picture) -> str:
        assert picture.path is not None, "a picture has a path or its bytes"
        file = self.root / picture.path
        name = relative_path(file, self.folder)
        try:
            missing = name not in self.names and not file.is_file()
        except OSError:
            # Such as a name that is too long.
            missing = True
        if missing:
            raise UnusableRowError(_MISSING)
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
