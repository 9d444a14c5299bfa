"""Writes public sets of judged images as the file that `data.pairs` reads, with the images inside their files."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from srpo_ray.config.algorithms.base import Judged
from srpo_ray.data.pair_images import IMAGES, MISSING_FILE, PlacedImages
from srpo_ray.data.pair_rows import Label, Pair, UnusableRowError
from srpo_ray.data.pair_sets import PAIR_SETS, PairSet, read_set
from srpo_ray.data.repeated_pairs import repeat_notes
from srpo_ray.files import write_text


@dataclass(frozen=True)
class Converted:
    """Result of a conversion."""

    path: Path
    rows: int
    images: int
    """Number of different images."""
    left_out: Counter[str]
    """Reason -> rows or comparisons without a judgement."""
    kind: Judged = "pairs"
    """Kind of the rows."""
    weight: str | None = None
    """Formula of the confidence of the rows; None if they have none."""
    unweighed: int = 0
    """Rows without a weight in the set; their confidence is 1."""
    notes: Sequence[str] = ()
    """Notes for the user on the rows."""

    def __str__(self) -> str:
        listed = _listed(self.left_out)
        rest = f", left out: {listed}" if listed else ""
        notes = "".join(f", {note}" for note in self.notes)
        return f"{self.path}: {self.rows} {self.kind} of {self.images} images{notes}{rest}{self._confidence}"

    @property
    def _confidence(self) -> str:
        if self.weight is None:
            return ""
        if self.unweighed == self.rows:
            return f"; no row states {self.weight}, so no confidence is written"
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
        folder: Folder of the new `pairs.jsonl` or `labels.jsonl`, and of the images inside tables and tar files.
        images: Folder that paths of images are relative to; None takes that of the first source. The images stay there.
        limit: Maximum number of written rows; None writes all.
        confidence: Write the weight that the set states for a row as its `confidence`.

    Raises:
        ValueError: If the folder has such a file, a source is not of the set, the set states no weight that was asked
            for, no row is left, or the folder cannot be written.
    """
    path = folder / known.output
    _check(known, sources, folder, confidence=confidence)
    left_out: Counter[str] = Counter()
    # The folder is made with the first file in it, so that sources that cannot be used leave none.
    placed = PlacedImages(folder, images or sources[0].parent)
    found = read_set(known, sources, left_out, confidence=confidence)
    try:
        with _removed_on_failure(folder, placed.names):
            rows = list(islice(_rows(found, placed, left_out), limit))
            if not rows:
                raise ValueError(
                    f"expected at least one usable row of {known.title} ({known.files}) in"
                    f" {', '.join(map(str, sources))}, got none ({_listed(left_out) or 'no rows'}); name another file"
                    " or another --set"
                )
            write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    except OSError as error:
        raise ValueError(f"--to: expected a writable folder, got {folder} ({error}); choose another") from error
    weight = known.weight.text if confidence and known.weight else None
    unweighed = sum("confidence" not in row for row in rows) if weight else 0
    notes = _notes(known.kind, rows, placed)
    return Converted(path, len(rows), len(placed.names), left_out, known.kind, weight, unweighed, notes)


def _check(known: PairSet, sources: Sequence[Path], folder: Path, *, confidence: bool) -> None:
    """Check the arguments of `convert` before a file is read."""
    if (folder / known.output).exists():
        raise ValueError(
            f"expected a folder without {known.output}, got {folder}; choose another one, or remove the file"
        )
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


def _notes(kind: Judged, rows: Sequence[Mapping[str, Any]], images: PlacedImages) -> list[str]:
    notes = repeat_notes(_sides(row, images) for row in rows) if kind == "pairs" else []
    if kind == "labels":
        notes.append(f"{sum(row['liked'] for row in rows)} liked")
        mixed = sum("mixed" in row for row in rows)
        if mixed:
            notes.append(f"{mixed} from intersections (leave them out with grep -v '\"mixed\": true' labels.jsonl)")
    if any("other_prompt" in row for row in rows):
        notes.append("each image with a caption of its own (train with algorithm.captions=own)")
    if several := len(images.changed):
        notes.append(f"{several} image uid{'s' * (several > 1)} with several images, each under a name of its own")
    return notes


def _sides(row: Mapping[str, Any], images: PlacedImages) -> tuple[tuple[str, str], tuple[str, str]]:
    """Files of a pair, each with its caption."""
    preferred, other = (images.resolve(row[side]) for side in ("preferred", "other"))
    return (preferred, row["prompt"]), (other, row.get("other_prompt", row["prompt"]))


@contextmanager
def _removed_on_failure(folder: Path, names: set[str]) -> Iterator[None]:
    """Remove the images that a block writes, and the folders that it makes, if it fails.

    Args:
        folder: Folder of the file for `data.pairs`.
        names: Paths of the images so far, which grow in the block. Files that were there before it stay.
    """
    images = folder / IMAGES
    before = {file.name for file in images.iterdir()} if images.is_dir() else set[str]()
    made = [each for each in (images, folder, *folder.parents) if not each.exists()]
    try:
        yield
    except BaseException:
        for file in (folder / name for name in names):
            # Image files of sets have their own folders and are not written.
            if file.parent == images and file.name not in before:
                file.unlink(missing_ok=True)
        for each in made:
            # Another process may have put a file there.
            with suppress(OSError):
                each.rmdir()
        raise


def _listed(left_out: Counter[str]) -> str:
    hints = {MISSING_FILE: " (download and unpack them, or name their folder with --images)"}
    found = sorted(left_out.items())
    return ", ".join(f"{count} {reason}{hints.get(reason, '')}" for reason, count in found if count)


def _rows(judgements: Iterator[Pair | Label], images: PlacedImages, left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    """Make the row of each judgement, and count those with an image that cannot be used."""
    for judged in judgements:
        try:
            names = images.place(judged.images)
        except UnusableRowError as reason:
            left_out[str(reason)] += 1
            continue
        yield judged.columns(names)
