"""Judged images of a .jsonl file: preferred and other images, liked and disliked ones, or right and wrong captions.

A picture may be in many rows. It is listed, encoded and cached once.
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from srpo_ray.config.algorithms.base import Judged
from srpo_ray.data.image_sources import Entry, file_identity
from srpo_ray.data.images import CaptionedImages, RealImages
from srpo_ray.data.prompts import caption_of
from srpo_ray.data.repeated_pairs import repeat_notes
from srpo_ray.data.text_files import TextFileError, parse_json, read_text_file, split_lines
from srpo_ray.decode_image import SUFFIXES

EMBEDDED = "small_world:"
"""Beginning of the names of embedded sources."""
_SHOWN = 3
_KEYS: dict[Judged, tuple[str, ...]] = {"pairs": ("preferred", "other"), "labels": ("image",), "captions": ("image",)}
"""Keys of a row that name images."""
_COLUMNS = ("prompt", "other_prompt", "confidence", "annotator")
"""Keys of a row that name none."""
_MORE_KEYS: dict[Judged, tuple[str, ...]] = {"pairs": (), "labels": ("liked",), "captions": ("other_prompt",)}
"""Other keys of a row besides `prompt`."""
_ROWS: dict[Judged, str] = {"pairs": "pairs", "labels": "labels", "captions": "pairs of captions"}
"""Rows, for messages."""


@dataclass(frozen=True)
class JudgedRow:
    """One judgement."""

    images: tuple[int, ...]
    """Indices of the preferred and the other image, or of the single one."""
    prompt: str
    other_prompt: str | None
    """Caption of the other image, or wrong caption of the single one; None if it is `prompt`."""
    labels: tuple[float, ...]
    """Label of each image: the probabilities of being preferred; a number in [-1, 1], above 0 if it is liked; or the
    confidence in the captions, in (0, 1]."""


@dataclass(frozen=True)
class JudgedImages:
    """Rows of a source, and the pictures in them, each once."""

    images: RealImages
    rows: Sequence[JudgedRow]
    names: Sequence[str]
    """Name of each picture, the same on every host."""
    note: str | None = None
    """Note for the user about the source; None if there is none."""

    @property
    def captions(self) -> list[str]:
        """Caption of each row."""
        return [row.prompt for row in self.rows]

    @property
    def other_captions(self) -> list[str]:
        """Caption of the other image of each row."""
        return [row.prompt if row.other_prompt is None else row.other_prompt for row in self.rows]

    @property
    def judgements(self) -> list[str]:
        """Text of each row, with the names of its pictures."""
        return [repr((row, [self.names[index] for index in row.images])) for row in self.rows]

    @property
    def labels(self) -> Tensor:
        """Labels `[rows, images of a row]`."""
        return torch.tensor([row.labels for row in self.rows])


def load_judged(source: str, kind: Judged, *, own_captions: bool = False, key: str = "data.pairs") -> JudgedImages:
    """Open a source of judged images.

    Args:
        source: A .jsonl file, or an embedded source such as `small_world:pairs`.
        kind: Rows that are wanted.
        own_captions: True if the other image of every pair must have a caption of its own; rows of captions always
            have two.
        key: Config key of the source, for messages.

    Raises:
        ValueError: If the file cannot be read, or has rows that cannot be used; the message counts all of them.
    """
    if source.startswith(EMBEDDED):
        from srpo_ray.small_world.pairs import embedded_rows

        images, rows, note = embedded_rows(source, kind, own_captions=own_captions, key=key)
        return JudgedImages(images, [JudgedRow(*row) for row in rows], images.identities, note)
    return _Reader(Path(source), kind, own_captions or kind == "captions", key).read()


@dataclass(frozen=True)
class PairFile:
    """Pairs of a file, ties included, with the columns that a pair file has besides its images."""

    images: CaptionedImages
    files: Sequence[Path]
    """File of each picture."""
    rows: Sequence[JudgedRow]
    columns: Sequence[Mapping[str, object]]
    """`prompt`, `other_prompt`, `confidence` and `annotator` of each row, as far as it has them."""


def read_pair_file(path: Path, key: str) -> PairFile:
    """Read all pairs of a .jsonl file.

    Args:
        path: The file.
        key: Config key or option that names it, for messages.

    Raises:
        ValueError: As `load_judged`.
    """
    reader = _Reader(path, "pairs", own_captions=False, key=key, keep_ties=True)
    judged = reader.read()
    return PairFile(reader.images, [path.parent / name for name in judged.names], judged.rows, reader.columns)


class _UnusableError(ValueError):
    """Row that cannot be used; the message is its kind of problem."""

    def __init__(self, kind: str, name: str = "") -> None:
        super().__init__(kind)
        self.detail = f": {name}" if name else ""


@dataclass
class _Reader:
    """Reader of one file."""

    path: Path
    kind: Judged
    own_captions: bool
    key: str
    keep_ties: bool = False
    """True if ties are rows too."""
    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Kind of problem -> rows that have it."""
    entries: list[Entry] = field(default_factory=list)
    known: dict[str, int] = field(default_factory=dict)
    """Name of a picture -> its index."""
    resolved: list[str] = field(default_factory=list)
    """Path of each picture without symbolic links."""
    annotators: set[str] = field(default_factory=set)
    columns: list[dict[str, object]] = field(default_factory=list)
    """Columns of each row that name no image."""
    ties: int = 0
    unused_captions: int = 0

    def read(self) -> JudgedImages:
        lines, rows = self._lines(), []
        for number, line in lines:
            try:
                row = self._row(line)
            except _UnusableError as problem:
                self.problems[str(problem)].append(f"line {number}{problem.detail}")
            else:
                rows += [] if row is None else [row]
        self._refuse(len(lines))
        if not rows:
            raise ValueError(
                f"{self.key}: expected at least one judgement in {self.path}, got none ({self.ties} ties); add rows"
            )
        return JudgedImages(self.images, rows, list(self.known), self._note(rows))

    @property
    def images(self) -> CaptionedImages:
        """Pictures of all rows that have been read."""
        return CaptionedImages(str(self.path), self.entries, "", self.key)

    def _lines(self) -> list[tuple[int, str]]:
        try:
            text = read_text_file(self.path)
        except OSError as error:
            raise ValueError(
                f"{self.key}: expected a readable .jsonl file or small_world:{self.kind}, got {str(self.path)!r}"
                f" ({error}); check the path (working folder: {Path.cwd()})"
            ) from error
        except TextFileError as error:
            raise ValueError(f"{self.key}: {self.path}: {error}") from error
        return [(number, line) for number, line in enumerate(split_lines(text), start=1) if line.strip()]

    def _row(self, line: str) -> JudgedRow | None:
        """Read a row; None for a tie.

        Raises:
            _UnusableError: If the row cannot be used.
        """
        row = _object(line)
        names = [_text(row, name, "winner" if name == "preferred" else f"`{name}`") for name in _KEYS[self.kind]]
        if len({_normal(name) for name in names}) < len(names):
            raise _UnusableError("the same image twice")
        prompt, label = _caption(row, "prompt"), self._label(row)
        other = _caption(row, "other_prompt") if self.own_captions else None
        if self.kind == "captions" and other == prompt:
            raise _UnusableError("equal captions")
        if label == 0:
            self.ties += 1
            if not self.keep_ties:
                return None
        if row.get("annotator") is not None:
            self.annotators.add(_text(row, "annotator", "text in `annotator`"))
        self.unused_captions += row.get("other_prompt") is not None and not self.own_captions
        images = tuple(self._image(_normal(name), prompt) for name in names)
        if len({self.resolved[index] for index in images}) < len(images):
            raise _UnusableError("the same image twice")
        self.columns.append({name: row[name] for name in _COLUMNS if row.get(name) is not None})
        return JudgedRow(images, prompt, other, ((1 + label) / 2, (1 - label) / 2) if len(images) > 1 else (label,))

    def _label(self, row: Mapping[object, object]) -> float:
        """Read the confidence of a comparison in [0, 1], or the label of an image in [-1, 1]; 0 is a tie."""
        confidence = _share(row.get("confidence", 1.0), "confidence")
        if self.kind != "labels":
            return confidence
        liked = row.get("liked")
        return (2 * (float(liked) if isinstance(liked, bool) else _share(liked, "liked")) - 1) * confidence

    def _image(self, name: str, caption: str) -> int:
        """Return the index of a picture, which is listed when it first occurs."""
        if name not in self.known:
            file = self.path.parent / name
            if not file.is_file():
                raise _UnusableError("a missing image", name)
            if file.suffix.lower() not in SUFFIXES:
                raise _UnusableError("a file that is no image", name)
            self.known[name] = len(self.entries)
            self.resolved.append(os.path.realpath(file))
            self.entries.append(Entry(str(file), partial(file_identity, name, file), caption, file.read_bytes))
        return self.known[name]

    def _refuse(self, count: int) -> None:
        if not self.problems:
            return
        bad = sum(map(len, self.problems.values()))
        parts = [
            f"{len(rows)} with {kind} ({', '.join(rows[:_SHOWN])}{', ...' if len(rows) > _SHOWN else ''})"
            for kind, rows in self.problems.items()
        ]
        keys = ", ".join((*_KEYS[self.kind], *_MORE_KEYS[self.kind]))
        raise ValueError(
            f"{self.key}: expected {keys} and prompt in every row of {self.path}, got {bad} of {count} rows that cannot"
            f" be used: {'; '.join(parts)}; correct or remove them"
        )

    def _note(self, rows: Sequence[JudgedRow]) -> str:
        people = f" of {len(self.annotators)} annotators" if self.annotators else ""
        parts = [f"{len(rows)} {_ROWS[self.kind]}{people}", f"{len(self.entries)} images"]
        parts += [f"{self.ties} tie{'s' * (self.ties > 1)} left out"] * bool(self.ties)
        parts += repeat_notes(map(self._sides, rows)) if self.kind == "pairs" else []
        unused = f"{self.unused_captions} other captions not used (algorithm.captions=shared)"
        return f"{self.path}: {', '.join([*parts, *[unused] * bool(self.unused_captions)])}"

    def _sides(self, row: JudgedRow) -> tuple[tuple[str, str], tuple[str, str]]:
        """Files of a pair without symbolic links, each with its caption."""
        preferred, other = (self.resolved[index] for index in row.images)
        return (preferred, row.prompt), (other, row.prompt if row.other_prompt is None else row.other_prompt)


def _object(line: str) -> Mapping[object, object]:
    try:
        row = parse_json(line)
    except TextFileError:
        row = None
    if not isinstance(row, Mapping):
        raise _UnusableError("no JSON object")
    return row


def _text(row: Mapping[object, object], key: str, what: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise _UnusableError(f"no {what}")
    return value


def _caption(row: Mapping[object, object], key: str) -> str:
    try:
        return caption_of(_text(row, key, f"`{key}`"))
    except TextFileError as error:
        raise _UnusableError(f"an unusable `{key}`") from error


def _normal(name: str) -> str:
    return Path(os.path.normpath(name)).as_posix()


def _share(value: object, key: str) -> float:
    """Read a number in [0, 1]; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise _UnusableError(f"`{key}` outside [0, 1]")
    return float(value)
