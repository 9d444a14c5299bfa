"""Public sets of judged images: their files, licences and weights, and the judgements in downloaded files."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from srpo_ray.config.algorithms.base import Judged
from srpo_ray.data import pair_rows, pick_a_pic
from srpo_ray.data.pair_rows import Label, OtherFormatError, Pair, Row, UnusableRowError
from srpo_ray.data.pair_tables import csv_rows, json_rows, ranked_groups, table_rows
from srpo_ray.data.pick_a_pic import EXAMPLES
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
    judgements: Callable[[Row, Counter[str]], Iterator[Pair | Label]]
    """Function from a row to its judgements. It raises UnusableRowError for a row that has none, and counts the
    comparisons of a group without a winner by reason."""
    weight: RowWeight | None = None
    """Weight of its rows; None if it states none."""
    kind: Judged = "pairs"
    """Kind of its judgements."""

    @property
    def output(self) -> str:
        """Name of the file for `data.pairs` with its judgements."""
        return f"{self.kind}.jsonl"


def read_set(
    known: PairSet, files: Sequence[Path], left_out: Counter[str], *, confidence: bool = False
) -> Iterator[Pair | Label]:
    """Read the judgements of files, one file after the other.

    Args:
        known: Set that the files are of.
        files: Downloaded files.
        left_out: Counts of the rows without a judgement by reason, which grow while the files are read.
        confidence: Read the weight of each row as its confidence. A weight of 0 leaves the row out.

    Raises:
        ValueError: If a file cannot be read, or is not of this set.
    """
    import pyarrow

    weight = known.weight if confidence else None
    for file in files:
        try:
            for row in known.rows(file):
                yield from _judgements_of(known, row, weight, left_out)
        except (OSError, pyarrow.ArrowException, TextFileError, OtherFormatError) as error:
            raise ValueError(
                f"{file}: expected {known.title} ({known.files}), got {error}; name another file or another --set"
            ) from error


def _judgements_of(
    known: PairSet, row: Row, weight: RowWeight | None, left_out: Counter[str]
) -> Iterator[Pair | Label]:
    """Read the judgements of a row, and count it if it has none."""
    try:
        for judged in known.judgements(row, left_out):
            value = None if weight is None or judged.weight is None else weight.read(judged.weight)
            if value == 0:
                raise UnusableRowError("with a weight of 0")
            yield judged._replace(confidence=value)
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


_IMAGE_REWARD_DB = ("image_path", "prompt_id", "prompt", "rank")
_KTO = (("file_name", "caption", "split"), ("file_path", "caption", "label"))
PAIR_SETS = {
    each.name: each
    for each in (
        PairSet(
            "open_image_preferences",
            "open-image-preferences-v1-binarized",
            "Parquet with prompt, chosen, rejected",
            "Apache-2.0",
            (".parquet",),
            partial(table_rows, columns=("prompt", "chosen", "rejected")),
            pair_rows.open_image_preferences,
        ),
        PairSet(
            "pick_a_pic",
            "Pick-a-Pic v1 or v2",
            f"Parquet with {', '.join(pick_a_pic.COLUMNS)}, or .tar with jpg_0.jpg, jpg_1.jpg, label_0.txt,"
            " label_1.txt, original_prompt.txt of each sample",
            "not stated on the page of its prompts",
            (".parquet", ".tar"),
            pick_a_pic.pick_a_pic_rows,
            pick_a_pic.pick_a_pic,
            # PickScore's training weighs its examples so, github.com/yuvalkirstain/PickScore at ca44324.
            RowWeight(f"1 / {EXAMPLES}", _inverse_count),
        ),
        PairSet(
            "hpdv2",
            "HPDv2",
            "JSON with prompt, file_path, human_preference, or prompt, image_path, rank",
            "Apache-2.0 as stated by ymhao/HPDv2",
            (".json",),
            lambda file: json_rows(file, ("file_path", "human_preference"), ("image_path", "rank")),
            pair_rows.hpdv2,
        ),
        PairSet(
            "hpdv3",
            "HPDv3",
            "JSON with prompt, path1 (preferred), path2",
            "not checked: read its page",
            (".json",),
            lambda file: json_rows(file, ("path1", "path2")),
            pair_rows.hpdv3,
            RowWeight("the set's confidence", _share),
        ),
        PairSet(
            "image_reward_db",
            "ImageRewardDB",
            f"Parquet or JSON with {', '.join(_IMAGE_REWARD_DB)} of each image",
            "Apache-2.0",
            (".parquet", ".json"),
            partial(ranked_groups, columns=_IMAGE_REWARD_DB),
            pair_rows.image_reward_db,
        ),
        PairSet(
            "pick_double_caption",
            "Pick-Double-Caption",
            f"Parquet with {', '.join(pick_a_pic.DOUBLE_COLUMNS)}",
            "MIT as stated by DualCPO/pick-double-caption; that of Pick-a-Pic is not stated",
            (".parquet",),
            pick_a_pic.pick_double_caption_rows,
            pick_a_pic.pick_double_caption,
        ),
        PairSet(
            "diffusion_kto",
            "the CSV file of Diffusion-KTO",
            f"CSV with {' or '.join(', '.join(group) for group in _KTO)}",
            "not stated on its page",
            (".csv",),
            lambda file: csv_rows(file, *_KTO),
            pair_rows.diffusion_kto,
            kind="labels",
        ),
    )
}
"""Known sets by name."""
