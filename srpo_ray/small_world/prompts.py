"""Prompts of the small world: contents, style words, captions, and the split of contents."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from itertools import permutations, product
from operator import itemgetter
from typing import Literal, NamedTuple

SHAPES = ("circle", "square", "triangle", "cross")
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
BACKGROUNDS = ("white", "gray", "black", "brown")

Axis = Literal["detail", "saturation", "brightness"]
AXES: tuple[Axis, ...] = ("detail", "saturation", "brightness")
"""Style axes that style words name."""
UNNAMED: tuple[Literal["vignette"], ...] = ("vignette",)
"""Style axes that no word names, so that no control word can steer them."""

Relation = Literal["left of", "above"]
RELATIONS: tuple[Relation, ...] = ("left of", "above")
COUNTS = ("", "two", "three")
"""Number words of one, two and three equal objects."""
MOST_OBJECTS = 3

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


class Content(NamedTuple):
    """Content of an image: up to three equal objects, or two that differ in colour and shape, on a background."""

    objects: tuple[tuple[int, int], ...]
    """Indices into (COLORS, SHAPES) of each object, in the order of the caption."""
    background: int
    """Index into BACKGROUNDS."""
    relation: Relation | None = None
    """Position of the first object relative to the second; None for equal objects."""

    @property
    def kind(self) -> Literal["one", "equal", "pair"]:
        """`one` object, two or three `equal` objects, or a `pair` of different objects."""
        if self.relation is not None:
            return "pair"
        return "one" if len(self.objects) == 1 else "equal"


@dataclass(frozen=True)
class StyleWord:
    """Style word: its relative frequency, and the Beta distribution of each style axis that it describes."""

    weight: float
    axes: dict[Axis, tuple[float, float]]


_DETAILED, _FLAT = (5.0, 1.5), (1.0, 9.0)
_VIVID, _MUTED = (8.0, 1.0), (1.5, 5.0)
_BRIGHT, _DARK = (6.0, 1.5), (1.5, 6.0)

STYLE_WORDS: dict[str, StyleWord] = {
    "detailed": StyleWord(6, {"detail": _DETAILED}),
    "textured": StyleWord(2, {"detail": _DETAILED}),
    "intricate": StyleWord(1, {"detail": _DETAILED}),
    "flat": StyleWord(5, {"detail": _FLAT}),
    "simple": StyleWord(2, {"detail": _FLAT}),
    "vivid": StyleWord(5, {"saturation": _VIVID}),
    "colorful": StyleWord(2, {"saturation": _VIVID}),
    "muted": StyleWord(4, {"saturation": _MUTED}),
    "pale": StyleWord(1.5, {"saturation": _MUTED}),
    "bright": StyleWord(4, {"brightness": _BRIGHT}),
    "sunny": StyleWord(1.5, {"brightness": _BRIGHT}),
    "dark": StyleWord(4, {"brightness": _DARK}),
    "dim": StyleWord(1.5, {"brightness": _DARK}),
    "realistic": StyleWord(4, {"detail": _DETAILED, "saturation": (4.0, 5.0)}),
    "cartoon": StyleWord(3, {"detail": _FLAT, "saturation": _VIVID}),
}
WORDS: tuple[str, ...] = tuple(STYLE_WORDS)


@cache
def all_contents() -> tuple[Content, ...]:
    """Return all 5760 contents: 128 with one object, 256 with equal objects, 5376 with a pair."""
    kinds = list(product(range(len(COLORS)), range(len(SHAPES))))
    grounds = range(len(BACKGROUNDS))
    equal = [Content((kind,) * (more + 1), ground) for more in range(3) for kind in kinds for ground in grounds]
    pairs = [
        Content((first, second), ground, relation)
        for first, second in permutations(kinds, 2)
        if first[0] != second[0] and first[1] != second[1]
        for relation in RELATIONS
        for ground in grounds
    ]
    return (*equal, *pairs)


def is_held_out(content: Content) -> bool:
    """Return True for the contents that no training set of the small world may contain.

    These are a quarter of the contents with equal objects and an eighth of the pairs. All their parts occur in training
    sets, but not together.
    """
    parts = [part for kind in content.objects for part in kind]
    if content.relation is None:
        return content.background == (sum(parts[:2]) + len(content.objects) - 1) % len(BACKGROUNDS)
    code = sum(weight * part for weight, part in zip((1, 2, 3, 5), parts, strict=True))
    return (code + content.background + RELATIONS.index(content.relation)) % 8 == 0


@cache
def seen_contents() -> tuple[Content, ...]:
    """Return the contents of the training sets of the small world."""
    return tuple(content for content in all_contents() if not is_held_out(content))


@cache
def held_out_contents() -> tuple[Content, ...]:
    """Return the contents that no training set of the small world contains."""
    return tuple(content for content in all_contents() if is_held_out(content))


_SPLIT_SIZES: dict[SplitName, dict[str, int]] = {
    "train": {"one": 48, "equal": 48, "pair": 96},
    "validation": {"one": 8, "equal": 16, "pair": 24},
    "test": {"one": 24, "equal": 48, "pair": 120},
}


@cache
def split_contents(split: SplitName) -> tuple[Content, ...]:
    """Return the contents of a set of prompts: 192 seen ones to train, 48 to validate and 192 to test, held out.

    The sets share no content. Kinds are mixed evenly, so the first prompts of a set are a fair sample of it.
    """
    drawn: list[tuple[float, Content]] = []
    for kind, size in _SPLIT_SIZES[split].items():
        source = seen_contents() if split == "train" else held_out_contents()
        pool = [content for content in source if content.kind == kind]
        random.Random(f"small world {kind}").shuffle(pool)
        first = _SPLIT_SIZES["validation"][kind] if split == "test" else 0
        drawn += [((place + 0.5) / size, content) for place, content in enumerate(pool[first : first + size])]
    return tuple(content for _, content in sorted(drawn, key=itemgetter(0)))


def split_prompts(split: SplitName) -> list[str]:
    """Return the plain prompts of `split_contents`."""
    return [caption(content) for content in split_contents(split)]


def caption(content: Content, word: str | None = None) -> str:
    """Return the caption of a content, with a style word before it if one is given.

    Examples: `"a red circle on a gray background"`, `"two red circles on ..."`,
    `"detailed. a red circle left of a blue square on ..."`.
    """
    names = [_name(*kind) for kind in content.objects]
    if content.relation is not None:
        subject = f"{names[0]} {content.relation} {names[1]}"
    elif content.kind == "one":
        subject = names[0]
    else:
        color, shape = content.objects[0]
        subject = f"{COUNTS[len(content.objects) - 1]} {COLORS[color]} {_plural(SHAPES[shape])}"
    plain = f"{subject} on a {BACKGROUNDS[content.background]} background"
    return plain if word is None else f"{word}. {plain}"


def _name(color: int, shape: int) -> str:
    article = "an" if COLORS[color] == "orange" else "a"
    return f"{article} {COLORS[color]} {SHAPES[shape]}"


def _plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def parse_prompt(text: str) -> tuple[str | None, Content]:
    """Split a prompt of the small world into its style word (None without one) and its content.

    Raises:
        ValueError: if the text is not a prompt that `caption` can produce.
    """
    head, dot, tail = text.partition(". ")
    word, plain = (head, tail) if dot else (None, text)
    content = _content_of_text().get(plain)
    if content is None or (word is not None and word not in STYLE_WORDS):
        raise ValueError(
            f"expected a small-world prompt such as 'a red circle on a gray background', 'two red circles on ...' or "
            f"'detailed. a red circle left of a blue square on a gray background', got {text!r}; colours {COLORS}, "
            f"shapes {SHAPES}, backgrounds {BACKGROUNDS}, style words {WORDS}"
        )
    return word, content


@cache
def _content_of_text() -> dict[str, Content]:
    return {caption(content): content for content in all_contents()}
