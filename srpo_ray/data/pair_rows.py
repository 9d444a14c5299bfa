"""Rows of public sets of image pairs: the preferred image of each, or the reason why a row has none."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from srpo_ray.data.prompts import caption_of
from srpo_ray.data.text_files import TextFileError, parse_json, read_text_file

_BATCH = 64
"""Rows of a table in memory at a time, with their images."""
EXAMPLES = "num_example_per_prompt"
"""Column of Pick-a-Pic with the number of rows of a row's prompt."""
SAME = "with the same image twice"
"""Reason to leave out a row that compares an image with itself."""

Row = Mapping[str, Any]


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


class UnusableRowError(ValueError):
    """Row without a pair; the message is the reason, as it is counted: `without a caption`."""


class OtherFormatError(ValueError):
    """File without the columns or keys of its set; the message says what is wrong."""


def table_rows(file: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Row]:
    """Read the rows of a Parquet table.

    Raises:
        OtherFormatError: If a column is missing.
    """
    import pyarrow.parquet

    table = pyarrow.parquet.ParquetFile(file)
    present = table.schema_arrow.names
    if missing := [name for name in columns if name not in present]:
        raise OtherFormatError(f"a table without {', '.join(missing)}")
    wanted = [*columns, *(name for name in optional if name in present)]
    for batch in table.iter_batches(batch_size=_BATCH, columns=wanted):
        yield from batch.to_pylist()


def json_rows(file: Path, *keys: Sequence[str]) -> Iterator[Row]:
    """Read the objects of a JSON list; an entry that is no object becomes an empty one.

    Args:
        file: JSON file.
        keys: Keys of the set's entries, one group for each form that they have.

    Raises:
        OtherFormatError: If the file has no list, or no entry of it has the keys of the set.
    """
    entries = parse_json(read_text_file(file))
    if not isinstance(entries, list):
        raise OtherFormatError("no list")
    rows = [dict(entry) if isinstance(entry, Mapping) else {} for entry in entries]
    if rows and not any(row.keys() >= set(group) for row in rows for group in keys):
        raise OtherFormatError(f"no entry with {' or '.join(', '.join(group) for group in keys)}")
    yield from rows


def ranked_groups(file: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Read a table or JSON list of ImageRewardDB, which has a row for each image, and group the images of a prompt.

    Yields:
        `prompt`, `image_path` and `rank` of each prompt, the last two as lists.

    Raises:
        OtherFormatError: As `table_rows` and `json_rows`.
    """
    rows = json_rows(file, columns) if file.suffix.lower() == ".json" else table_rows(file, columns)
    groups: dict[object, dict[str, Any]] = {}
    for row in rows:
        key = repr((row.get("prompt_id"), row.get("prompt")))
        group = groups.setdefault(key, {"prompt": row.get("prompt"), "image_path": [], "rank": []})
        for name in ("image_path", "rank"):
            group[name].append(row.get(name))
    yield from groups.values()


def image_reward_db(row: Row, left_out: Counter[str]) -> Iterator[Pair]:
    """Prefer the image of the lower rank in all pairs of a prompt's images; count the images that have none."""
    found = list(zip(row["image_path"], row["rank"], strict=True))
    usable = [(path, rank) for path, rank in found if isinstance(path, str) and path and _is_whole(rank)]
    if len(usable) < len(found):
        left_out["images without a path or rank"] += len(found) - len(usable)
    if len(usable) < 2:
        raise UnusableRowError("prompts with fewer than two usable images")
    paths, ranks = zip(*usable, strict=True)
    yield from _by_value(paths, [-rank for rank in ranks], _prompt(row["prompt"]), left_out)


def pick_a_pic(row: Row, _: Counter[str]) -> Iterator[Pair]:
    """Prefer the image with the larger label."""
    labels = row["label_0"], row["label_1"]
    if row.get("has_label") is False or None in labels:
        raise UnusableRowError("without a label")
    if not all(is_share(label) for label in labels):
        raise UnusableRowError("with a label outside [0, 1]")
    if abs(sum(labels) - 1) > 1e-6:
        raise UnusableRowError("with labels that do not add up to 1")
    if row.get("are_different") is False or row["image_0_uid"] == row["image_1_uid"]:
        raise UnusableRowError(SAME)
    if labels[0] == labels[1]:
        raise UnusableRowError("ties")
    prompt = _prompt(row["caption"])
    pictures = [Picture(str(row[f"image_{side}_uid"]), _bytes_of(row[f"jpg_{side}"])) for side in (0, 1)]
    if pictures[0].content == pictures[1].content:
        raise UnusableRowError(SAME)
    best, user = int(labels[1] > labels[0]), row.get("user_id")
    yield Pair(pictures[best], pictures[1 - best], prompt, None if user is None else str(user), row.get(EXAMPLES))


def open_image_preferences(row: Row, _: Counter[str]) -> Iterator[Pair]:
    """Prefer the chosen image."""
    prompt = _prompt(row["prompt"])
    chosen, rejected = (_bytes_of(row[column]) for column in ("chosen", "rejected"))
    if chosen == rejected:
        raise UnusableRowError(SAME)
    yield Pair(Picture(None, chosen), Picture(None, rejected), prompt)


def hpdv2(row: Row, left_out: Counter[str]) -> Iterator[Pair]:
    """Prefer the image with the vote of a pair of the training file, or with the lower rank of the test file."""
    # The training file has one vote for each pair, the test file ranks of a group.
    training = "human_preference" in row
    paths = row.get("file_path" if training else "image_path")
    values = row.get("human_preference" if training else "rank")
    if not isinstance(paths, list) or not isinstance(values, list) or len(paths) != len(values) or len(paths) < 2:
        raise UnusableRowError("without two images and as many votes or ranks")
    if not all(isinstance(path, str) and path for path in paths):
        raise UnusableRowError("without paths of its images")
    if not all(_is_whole(value) for value in values):
        raise UnusableRowError("with votes or ranks that are no whole numbers")
    if training and (len(paths) != 2 or any(value not in (0, 1) for value in values)):
        raise UnusableRowError("with other votes than 0 or 1 of two images")
    yield from _by_value(
        paths, values if training else [-rank for rank in values], _prompt(row.get("prompt")), left_out
    )


def hpdv3(row: Row, left_out: Counter[str]) -> Iterator[Pair]:
    """Prefer the first image, as in every row of the set."""
    paths = [row.get("path1"), row.get("path2")]
    if not all(isinstance(path, str) and path for path in paths):
        raise UnusableRowError("without path1 and path2")
    for pair in _by_value([str(path) for path in paths], [1, 0], _prompt(row.get("prompt")), left_out):
        yield pair._replace(weight=row.get("confidence"))


def is_share(value: object) -> bool:
    """Return True for a number in [0, 1]; true and false are none."""
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value <= 1


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _prompt(value: object) -> str:
    """Return a caption without surrounding white space."""
    if value is not None and not isinstance(value, str):
        raise UnusableRowError("with a caption that is no text")
    try:
        text = caption_of(value) if value else ""
    except TextFileError as error:
        raise UnusableRowError("with an unusable caption") from error
    if not text:
        raise UnusableRowError("without a caption")
    return text


def _bytes_of(value: object) -> bytes:
    """Return the bytes of an image cell, which is bytes or a struct with them."""
    found = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(found, bytes) or not found:
        raise UnusableRowError("without the bytes of an image")
    return found


def _by_value(paths: Sequence[str], values: Sequence[int], prompt: str, left_out: Counter[str]) -> Iterator[Pair]:
    """All pairs of images of a prompt, the one of the higher value first."""
    for first, second in combinations(range(len(paths)), 2):
        if paths[first] == paths[second]:
            left_out[SAME] += 1
        elif values[first] == values[second]:
            left_out["ties"] += 1
        else:
            better, worse = (first, second) if values[first] > values[second] else (second, first)
            yield Pair(Picture(None, path=paths[better]), Picture(None, path=paths[worse]), prompt)
