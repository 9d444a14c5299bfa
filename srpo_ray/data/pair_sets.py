"""Public sets of image pairs: the preferred image of each row, and the rows that have none."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from srpo_ray.data.text_files import TextFileError, parse_json, read_text_file

_BATCH = 64
"""Rows of a table in memory at a time, with their images."""
_EXAMPLES = "num_example_per_prompt"


class Picture(NamedTuple):
    """Image of a row: its bytes with a name that is equal for equal images, or a path below the set's images."""

    name: str | None
    """Identity of an image of a table; None takes a hash of its bytes."""
    content: bytes | None = None
    path: str | None = None


class Pair(NamedTuple):
    """Row with a preferred image."""

    preferred: Picture
    other: Picture
    prompt: str
    annotator: str | None = None
    weight: object = None
    """Cell of the set's weight of the row; None if there is none."""
    confidence: float | None = None
    """Weight of the row in (0, 1]; None if it was not asked for, or the row has none."""


@dataclass(frozen=True)
class RowWeight:
    """Weight that a set states for its rows."""

    text: str
    """Formula of its columns, for messages."""
    read: Callable[[object], float]
    """Function from a cell to the weight in [0, 1].

    Raises UnusableRowError for other cells.
    """


@dataclass(frozen=True)
class PairSet:
    """Known set."""

    name: str
    title: str
    files: str
    """Its files and their columns or keys."""
    licence: str
    suffix: str
    read: Callable[[Path, Counter[str]], Iterator[Pair]]
    """Function from a file to its pairs. It counts the rows that have none by reason."""
    weight: RowWeight | None = None
    """Weight of its rows; None if it states none."""


class UnusableRowError(ValueError):
    """Row without the columns of its set; the message says what is wrong."""


def read_set(
    known: PairSet, files: Sequence[Path], left_out: Counter[str], *, confidence: bool = False
) -> Iterator[Pair]:
    """Read the pairs of files, one file after the other.

    Args:
        known: Set that the files are of.
        files: Downloaded files.
        left_out: Counts of the rows without a pair by reason, which grow while the pairs are read.
        confidence: Read the weight of each row as its confidence. A weight of 0 leaves the row out.

    Raises:
        ValueError: If a file cannot be read, or a row is not of this set.
    """
    import pyarrow

    for file in files:
        try:
            pairs = known.read(file, left_out)
            yield from _weighed(pairs, known.weight, left_out) if confidence and known.weight else pairs
        except (OSError, pyarrow.ArrowException, TextFileError, UnusableRowError) as error:
            raise ValueError(
                f"{file}: expected {known.title} ({known.files}), got {error}; name another file or another --set"
            ) from error


def _weighed(pairs: Iterator[Pair], weight: RowWeight, left_out: Counter[str]) -> Iterator[Pair]:
    for pair in pairs:
        value = None if pair.weight is None else weight.read(pair.weight)
        if value == 0:
            left_out["with a weight of 0"] += 1
        else:
            yield pair._replace(confidence=value)


def _inverse_count(cell: object) -> float:
    if isinstance(cell, bool) or not isinstance(cell, int) or cell < 1:
        raise UnusableRowError(f"num_example_per_prompt {cell!r}, which is no number of examples")
    return 1 / cell


def _share(cell: object) -> float:
    if isinstance(cell, bool) or not isinstance(cell, int | float) or not 0 <= cell <= 1:
        raise UnusableRowError(f"the confidence {cell!r}, which is not in [0, 1]")
    return float(cell)


def _table_rows(file: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet

    table = pyarrow.parquet.ParquetFile(file)
    present = table.schema_arrow.names
    if missing := [name for name in columns if name not in present]:
        raise UnusableRowError(f"a table without {', '.join(missing)}")
    wanted = [*columns, *(name for name in optional if name in present)]
    for batch in table.iter_batches(batch_size=_BATCH, columns=wanted):
        yield from batch.to_pylist()


def _objects(file: Path) -> Iterator[Mapping[str, Any]]:
    rows = parse_json(read_text_file(file))
    if not isinstance(rows, list):
        raise UnusableRowError("no list")
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise UnusableRowError(f"an entry {number} that is no object")
        yield {str(key): value for key, value in row.items()}


def _prompt(value: object, left_out: Counter[str]) -> str | None:
    """Return a caption without surrounding white space; count it if there is none."""
    if value is not None and not isinstance(value, str):
        raise UnusableRowError(f"the caption {value!r}")
    text = (value or "").strip()
    left_out["without a caption"] += not text
    return text or None


def _bytes_of(value: object, column: str) -> bytes:
    """Return the bytes of an image cell, which is bytes or a struct with them."""
    found = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(found, bytes) or not found:
        raise UnusableRowError(f"a row without the bytes of its image in {column}")
    return found


def _read_pick_a_pic(file: Path, left_out: Counter[str]) -> Iterator[Pair]:
    sides = ("caption", "jpg_0", "jpg_1", "label_0", "label_1", "image_0_uid", "image_1_uid")
    for row in _table_rows(file, sides, ("has_label", "are_different", "user_id", _EXAMPLES)):
        labels = row["label_0"], row["label_1"]
        if row.get("has_label") is False or None in labels:
            left_out["without a label"] += 1
            continue
        if any(not 0 <= label <= 1 for label in labels) or abs(sum(labels) - 1) > 1e-6:
            raise UnusableRowError(f"the labels {labels[0]} and {labels[1]}, which are no shares of one vote")
        if row.get("are_different") is False or row["image_0_uid"] == row["image_1_uid"]:
            left_out["with the same image twice"] += 1
            continue
        if labels[0] == labels[1]:
            left_out["ties"] += 1
            continue
        prompt = _prompt(row["caption"], left_out)
        if prompt is None:
            continue
        pictures = [Picture(str(row[f"image_{i}_uid"]), _bytes_of(row[f"jpg_{i}"], f"jpg_{i}")) for i in (0, 1)]
        best = int(labels[1] > labels[0])
        user = row.get("user_id")
        yield Pair(pictures[best], pictures[1 - best], prompt, None if user is None else str(user), row.get(_EXAMPLES))


def _read_open_image_preferences(file: Path, left_out: Counter[str]) -> Iterator[Pair]:
    for row in _table_rows(file, ("prompt", "chosen", "rejected")):
        prompt = _prompt(row["prompt"], left_out)
        if prompt is None:
            continue
        chosen, rejected = (_bytes_of(row[column], column) for column in ("chosen", "rejected"))
        if chosen == rejected:
            left_out["with the same image twice"] += 1
            continue
        yield Pair(Picture(None, chosen), Picture(None, rejected), prompt)


def _read_hpdv2(file: Path, left_out: Counter[str]) -> Iterator[Pair]:
    for row in _objects(file):
        # The training file has one vote for each pair, the test file ranks of a group.
        training = "human_preference" in row
        paths, votes = (row.get("file_path"), row["human_preference"]) if training else _ranked(row)
        if not isinstance(paths, list) or not isinstance(votes, list) or len(paths) != len(votes) or len(paths) < 2:
            raise UnusableRowError("an entry without images and as many votes or ranks")
        if training and (len(paths) != 2 or sorted(votes) not in ([0, 1], [0, 0], [1, 1])):
            raise UnusableRowError(f"the votes {votes}, which are not 0 or 1 of two images")
        prompt = _prompt(row.get("prompt"), left_out)
        if prompt is not None:
            yield from _by_value([str(path) for path in paths], votes, prompt, left_out)


def _ranked(row: Mapping[str, Any]) -> tuple[Any, Any]:
    """Images and minus the ranks of a group: lower ranks are better."""
    ranks = row.get("rank")
    if not isinstance(ranks, list) or not all(isinstance(rank, int) for rank in ranks):
        raise UnusableRowError("an entry without `human_preference` and without ranks")
    return row.get("image_path"), [-rank for rank in ranks]


def _by_value(paths: Sequence[str], values: Sequence[int], prompt: str, left_out: Counter[str]) -> Iterator[Pair]:
    """All pairs of images of a prompt, the one of the higher value first."""
    for first, second in combinations(range(len(paths)), 2):
        if paths[first] == paths[second]:
            left_out["with the same image twice"] += 1
        elif values[first] == values[second]:
            left_out["ties"] += 1
        else:
            better, worse = (first, second) if values[first] > values[second] else (second, first)
            yield Pair(Picture(None, path=paths[better]), Picture(None, path=paths[worse]), prompt)


def _read_hpdv3(file: Path, left_out: Counter[str]) -> Iterator[Pair]:
    for row in _objects(file):
        paths = [row.get("path1"), row.get("path2")]
        if not all(isinstance(path, str) and path for path in paths):
            raise UnusableRowError("an entry without `path1` and `path2`")
        prompt = _prompt(row.get("prompt"), left_out)
        if prompt is not None:
            # The first image is the preferred one in every row.
            for pair in _by_value([str(path) for path in paths], [1, 0], prompt, left_out):
                yield pair._replace(weight=row.get("confidence"))


PAIR_SETS = {
    each.name: each
    for each in (
        PairSet(
            "open_image_preferences",
            "open-image-preferences-v1-binarized",
            "Parquet with prompt, chosen, rejected",
            "Apache-2.0",
            ".parquet",
            _read_open_image_preferences,
        ),
        PairSet(
            "pick_a_pic",
            "Pick-a-Pic v1 or v2",
            "Parquet with caption, jpg_0, jpg_1, label_0, label_1, image_0_uid, image_1_uid",
            "not stated on the page of its prompts",
            ".parquet",
            _read_pick_a_pic,
            # PickScore's training weighs its examples so, github.com/yuvalkirstain/PickScore at ca44324.
            RowWeight(f"1 / {_EXAMPLES}", _inverse_count),
        ),
        PairSet(
            "hpdv2",
            "HPDv2",
            "JSON with prompt, file_path, human_preference, or prompt, image_path, rank",
            "Apache-2.0 as stated by ymhao/HPDv2",
            ".json",
            _read_hpdv2,
        ),
        PairSet(
            "hpdv3",
            "HPDv3",
            "JSON with prompt, path1 (preferred), path2",
            "not checked: read its page",
            ".json",
            _read_hpdv3,
            RowWeight("the set's confidence", _share),
        ),
    )
}
"""Known sets by name."""
