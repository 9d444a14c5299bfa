"""Rows of Pick-a-Pic, of its mirror in tar files, and of Pick-Double-Caption, which adds captions to it."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from srpo_ray.data.image_tars import TAR
from srpo_ray.data.pair_rows import SAME, Pair, Picture, Row, UnusableRowError, bytes_of, is_share, prompt_of
from srpo_ray.data.pair_tables import table_rows
from srpo_ray.data.pair_tars import UNUSABLE, tar_samples

EXAMPLES = "num_example_per_prompt"
"""Column with the number of rows of a row's prompt."""
_COMPARED = ("jpg_0", "jpg_1", "label_0", "label_1")
"""Columns of the two images and of their shares of the vote."""
_UIDS = ("image_0_uid", "image_1_uid")
_FLAGS = ("has_label", "are_different", "user_id")
COLUMNS = ("caption", *_COMPARED, *_UIDS)
"""Columns of Pick-a-Pic that are required."""
DOUBLE_COLUMNS = ("caption_0", "caption_1", *_COMPARED)
"""Columns of Pick-Double-Caption that its authors' code reads or names, github.com/sahsaeedi/DCPO-T2I at 62335bb."""


def pick_a_pic_rows(file: Path) -> Iterator[Row]:
    """Read a Parquet file of Pick-a-Pic or a tar file of its mirror.

    Raises:
        OtherFormatError: If columns or all members of a kind are missing, or the tar file is damaged.
    """
    return tar_samples(file) if file.suffix.lower() == TAR else table_rows(file, COLUMNS, (*_FLAGS, EXAMPLES))


def pick_double_caption_rows(file: Path) -> Iterator[Row]:
    """Read a Parquet file of Pick-Double-Caption.

    Raises:
        OtherFormatError: If a column is missing.
    """
    return table_rows(file, DOUBLE_COLUMNS, (*_UIDS, *_FLAGS))


def pick_a_pic(row: Row, _: Counter[str]) -> Iterator[Pair]:
    """Prefer the image with the larger label."""
    if reason := row.get(UNUSABLE):
        raise UnusableRowError(reason)
    best = _best(row)
    yield _pair(row, best, prompt_of(row["caption"]))


def pick_double_caption(row: Row, _: Counter[str]) -> Iterator[Pair]:
    """Prefer the image with the larger label; each image has its own caption."""
    best = _best(row)
    prompt, other_prompt = (prompt_of(row[f"caption_{side}"]) for side in (best, 1 - best))
    yield _pair(row, best, prompt)._replace(other_prompt=other_prompt)


def _best(row: Row) -> int:
    """Return the index of the preferred image."""
    labels = row["label_0"], row["label_1"]
    if row.get("has_label") is False or None in labels:
        raise UnusableRowError("without a label")
    if not all(is_share(label) for label in labels):
        raise UnusableRowError("with a label outside [0, 1]")
    if abs(sum(labels) - 1) > 1e-6:
        raise UnusableRowError("with labels that do not add up to 1")
    first, second = (row.get(name) for name in _UIDS)
    if row.get("are_different") is False or (first is not None and first == second):
        raise UnusableRowError(SAME)
    if labels[0] == labels[1]:
        raise UnusableRowError("ties")
    return int(labels[1] > labels[0])


def _pair(row: Row, best: int, prompt: str) -> Pair:
    uids = [None if row.get(name) is None else str(row[name]) for name in _UIDS]
    images = [Picture(uids[side], bytes_of(row[f"jpg_{side}"])) for side in (0, 1)]
    if images[0].content == images[1].content:
        raise UnusableRowError(SAME)
    user = row.get("user_id")
    return Pair(images[best], images[1 - best], prompt, None if user is None else str(user), row.get(EXAMPLES))
