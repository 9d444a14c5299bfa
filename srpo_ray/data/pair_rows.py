"""Rows of public sets of judged images: the judgements of each, or the reason why a row has none."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from srpo_ray.data.prompts import caption_of
from srpo_ray.data.text_files import TextFileError

SAME = "with the same image twice"
"""Reason to leave out a row that compares an image with itself."""
_LIKED = {"exclusive_win": True, "exclusive_lose": False, "intersections": True}
"""Parts of Diffusion-KTO's file, and if their images are liked."""

Row = Mapping[str, Any]


class Picture(NamedTuple):
    """Image of a row: its bytes with a name that is equal for equal images, or a path below the set's images."""

    name: str | None
    """Identity of an image inside a table or tar file; None takes a hash of its bytes."""
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
    other_prompt: str | None = None
    """Caption of the other image; None if it is `prompt`."""

    @property
    def images(self) -> tuple[Picture, ...]:
        """Images of the row."""
        return self.preferred, self.other

    def columns(self, names: Sequence[str]) -> dict[str, Any]:
        """Columns of a row of `data.pairs`, with the names of the images."""
        optional = {"other_prompt": self.other_prompt, "confidence": self.confidence, "annotator": self.annotator}
        given = {key: value for key, value in optional.items() if value is not None}
        return {"preferred": names[0], "other": names[1], "prompt": self.prompt, **given}


class Label(NamedTuple):
    """Row with an image that people liked or not."""

    image: Picture
    liked: bool
    prompt: str
    weight: object = None
    confidence: float | None = None
    mixed: bool = False
    """True for `intersections`: by their name, images that won one comparison and lost another one."""

    @property
    def images(self) -> tuple[Picture, ...]:
        """Image of the row."""
        return (self.image,)

    def columns(self, names: Sequence[str]) -> dict[str, Any]:
        """Columns of a row of `data.pairs`, with the name of the image; runs ignore `mixed`."""
        optional = {"confidence": self.confidence, "mixed": self.mixed or None}
        given = {key: value for key, value in optional.items() if value is not None}
        return {"image": names[0], "liked": self.liked, "prompt": self.prompt, **given}


class UnusableRowError(ValueError):
    """Row without a judgement; the message is the reason, as it is counted: `without a caption`."""


class OtherFormatError(ValueError):
    """File without the columns or keys of its set; the message says what is wrong."""


def image_reward_db(row: Row, left_out: Counter[str]) -> Iterator[Pair]:
    """Prefer the image of the lower rank in all pairs of a prompt's images; count the images that have none."""
    found = list(zip(row["image_path"], row["rank"], strict=True))
    usable = [(path, rank) for path, rank in found if isinstance(path, str) and path and _is_whole(rank)]
    if len(usable) < len(found):
        left_out["images without a path or rank"] += len(found) - len(usable)
    if len(usable) < 2:
        raise UnusableRowError("prompts with fewer than two usable images")
    paths, ranks = zip(*usable, strict=True)
    yield from _by_value(paths, [-rank for rank in ranks], prompt_of(row["prompt"]), left_out)


def open_image_preferences(row: Row, _: Counter[str]) -> Iterator[Pair]:
    """Prefer the chosen image."""
    prompt = prompt_of(row["prompt"])
    chosen, rejected = (bytes_of(row[column]) for column in ("chosen", "rejected"))
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
        paths, values if training else [-rank for rank in values], prompt_of(row.get("prompt")), left_out
    )


def hpdv3(row: Row, left_out: Counter[str]) -> Iterator[Pair]:
    """Prefer the first image, as in every row of the set."""
    paths = [row.get("path1"), row.get("path2")]
    if not all(isinstance(path, str) and path for path in paths):
        raise UnusableRowError("without path1 and path2")
    for pair in _by_value([str(path) for path in paths], [1, 0], prompt_of(row.get("prompt")), left_out):
        yield pair._replace(weight=row.get("confidence"))


def diffusion_kto(row: Row, _: Counter[str]) -> Iterator[Label]:
    """Like the images of the parts that the released training likes by default.

    Source: github.com/jacklishufan/diffusion-kto at 226bbd0. Its readme names, for data of one's own, `file_path` and
    `label` with `exclusive_win` and `exclusive_lose` only; its code reads `file_name` and `split`. Both its default
    policy and its example, `gt_label_wi_l`, like `intersections`.
    """
    by_code = row.keys() >= {"file_name", "split"}
    path, part = (row.get(key) for key in (("file_name", "split") if by_code else ("file_path", "label")))
    if None in row:
        raise UnusableRowError("with more cells than columns")
    if part not in _LIKED:
        raise UnusableRowError(f"with another {'split' if by_code else 'label'} than {', '.join(_LIKED)}")
    if not path:
        raise UnusableRowError("without a path of its image")
    yield Label(Picture(None, path=path), _LIKED[part], prompt_of(row.get("caption")), mixed=part == "intersections")


def is_share(value: object) -> bool:
    """Return True for a number in [0, 1]; true and false are none."""
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value <= 1


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def prompt_of(value: object) -> str:
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


def bytes_of(value: object) -> bytes:
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
