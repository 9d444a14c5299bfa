"""Public sets of image pairs: their files, licences and weights, and the pairs of downloaded files."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from srpo_ray.data import pair_rows
from srpo_ray.data.pair_rows import EXAMPLES, OtherFormatError, Pair, Row, UnusableRowError
from srpo_ray.data.text_files import TextFileError


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
    suffixes: tuple[str, ...]
    """Suffixes of its files in lower case."""
    rows: Callable[[Path], Iterator[Row]]
    """Function from a file to its rows. Raises OtherFormatError if the file is not of this set."""
    pairs: Callable[[Row, Counter[str]], Iterator[Pair]]
    """Function from a row to its pairs. It raises UnusableRowError for a row that has none, and counts the comparisons
    of a group without a winner by reason."""
    weight: RowWeight | None = None
    """Weight of its rows; None if it states none."""


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
        ValueError: If a file cannot be read, or is not of this set.
    """
    import pyarrow

    weight = known.weight if confidence else None
    for file in files:
        try:
            for row in known.rows(file):
                yield from _pairs_of(known, row, weight, left_out)
        except (OSError, pyarrow.ArrowException, TextFileError, OtherFormatError) as error:
            raise ValueError(
                f"{file}: expected {known.title} ({known.files}), got {error}; name another file or another --set"
            ) from error


def _pairs_of(known: PairSet, row: Row, weight: RowWeight | None, left_out: Counter[str]) -> Iterator[Pair]:
    """Read the pairs of a row, and count it if it has none."""
    try:
        for pair in known.pairs(row, left_out):
            value = None if weight is None or pair.weight is None else weight.read(pair.weight)
            if value == 0:
                raise UnusableRowError("with a weight of 0")
            yield pair._replace(confidence=value)
    except UnusableRowError as reason:
        left_out[str(reason)] += 1


def _inverse_count(cell: object) -> float:
    if isinstance(cell, bool) or not isinstance(cell, int) or cell < 1:
        raise UnusableRowError(f"with {EXAMPLES} below 1 or no whole number")
    return 1 / cell


def _share(cell: object) -> float:
    if isinstance(cell, int | float) and pair_rows.is_share(cell):
        return float(cell)
    raise UnusableRowError("with a confidence outside [0, 1]")


_PICK_A_PIC = ("caption", "jpg_0", "jpg_1", "label_0", "label_1", "image_0_uid", "image_1_uid")
_IMAGE_REWARD_DB = ("image_path", "prompt_id", "prompt", "rank")
PAIR_SETS = {
    each.name: each
    for each in (
        PairSet(
            "open_image_preferences",
            "open-image-preferences-v1-binarized",
            "Parquet with prompt, chosen, rejected",
            "Apache-2.0",
            (".parquet",),
            partial(pair_rows.table_rows, columns=("prompt", "chosen", "rejected")),
            pair_rows.open_image_preferences,
        ),
        PairSet(
            "pick_a_pic",
            "Pick-a-Pic v1 or v2",
            f"Parquet with {', '.join(_PICK_A_PIC)}",
            "not stated on the page of its prompts",
            (".parquet",),
            partial(
                pair_rows.table_rows,
                columns=_PICK_A_PIC,
                optional=("has_label", "are_different", "user_id", EXAMPLES),
            ),
            pair_rows.pick_a_pic,
            # PickScore's training weighs its examples so, github.com/yuvalkirstain/PickScore at ca44324.
            RowWeight(f"1 / {EXAMPLES}", _inverse_count),
        ),
        PairSet(
            "hpdv2",
            "HPDv2",
            "JSON with prompt, file_path, human_preference, or prompt, image_path, rank",
            "Apache-2.0 as stated by ymhao/HPDv2",
            (".json",),
            lambda file: pair_rows.json_rows(file, ("file_path", "human_preference"), ("image_path", "rank")),
            pair_rows.hpdv2,
        ),
        PairSet(
            "hpdv3",
            "HPDv3",
            "JSON with prompt, path1 (preferred), path2",
            "not checked: read its page",
            (".json",),
            lambda file: pair_rows.json_rows(file, ("path1", "path2")),
            pair_rows.hpdv3,
            RowWeight("the set's confidence", _share),
        ),
        PairSet(
            "image_reward_db",
            "ImageRewardDB",
            f"Parquet or JSON with {', '.join(_IMAGE_REWARD_DB)} of each image",
            "Apache-2.0",
            (".parquet", ".json"),
            partial(pair_rows.ranked_groups, columns=_IMAGE_REWARD_DB),
            pair_rows.image_reward_db,
        ),
    )
}
"""Known sets by name."""
