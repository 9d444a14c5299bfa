"""Prompts of the small world: contents, style words, captions, and the held-out contents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SHAPES = ("circle", "square", "triangle", "cross")
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
BACKGROUNDS = ("white", "gray", "black", "brown")

Axis = Literal["detail", "saturation", "brightness"]
AXES: tuple[Axis, ...] = ("detail", "saturation", "brightness")

Content = tuple[int, int, int]
"""Indices into (COLORS, SHAPES, BACKGROUNDS)."""


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


def all_contents() -> list[Content]:
    """Return all 128 contents, colour slowest and background fastest."""
    return [(c, s, b) for c in range(len(COLORS)) for s in range(len(SHAPES)) for b in range(len(BACKGROUNDS))]


def is_held_out(content: Content) -> bool:
    """Return True for the 32 contents that no training set of the small world may contain."""
    color, shape, background = content
    return background == (color + shape) % len(BACKGROUNDS)


def seen_contents() -> list[Content]:
    """Return the 96 contents in the training sets of the small world."""
    return [content for content in all_contents() if not is_held_out(content)]


def held_out_contents() -> list[Content]:
    """Return the 32 held-out contents, which no training set of the small world contains."""
    return [content for content in all_contents() if is_held_out(content)]


def caption(content: Content, word: str | None = None) -> str:
    """Return e.g. `"a red circle on a gray background"`, or `"detailed. a red circle on ..."` with a style word."""
    color, shape, background = COLORS[content[0]], SHAPES[content[1]], BACKGROUNDS[content[2]]
    article = "an" if color == "orange" else "a"
    plain = f"{article} {color} {shape} on a {background} background"
    return plain if word is None else f"{word}. {plain}"


def train_prompts() -> list[str]:
    """Return the 96 plain prompts of seen contents."""
    return [caption(content) for content in seen_contents()]


def test_prompts() -> list[str]:
    """Return the 32 plain prompts of held-out contents."""
    return [caption(content) for content in held_out_contents()]


test_prompts.__test__ = False  # type: ignore[attr-defined]  # keeps pytest from collecting it by its name


def unseen_prompts(count: int = 500) -> list[str]:
    """Return `count` of the 512 prompts of held-out contents (32, each plain and with the 15 words), evenly mixed.

    Raises:
        ValueError: if `count` is not in 1..512.
    """
    prompts = [caption(content, word) for word in (None, *WORDS) for content in held_out_contents()]
    if not 1 <= count <= len(prompts):
        raise ValueError(f"unseen_prompts: expected a count in 1..{len(prompts)}, got {count}; ask for fewer prompts")
    return prompts[:count]


_CONTENT_OF_TEXT: dict[str, Content] = {caption(content): content for content in all_contents()}


def parse_content(text: str) -> Content:
    """Return the content (indices of colour, shape, background) of a prompt; see `parse_prompt`."""
    return _parse(text)[1]


def parse_prompt(text: str) -> tuple[str | None, str, str, str]:
    """Split a prompt of the small world into (style word or None, colour, shape, background).

    Raises:
        ValueError: if the text is not a prompt that `caption` can produce.
    """
    word, (color, shape, background) = _parse(text)
    return word, COLORS[color], SHAPES[shape], BACKGROUNDS[background]


def _parse(text: str) -> tuple[str | None, Content]:
    head, dot, tail = text.partition(". ")
    word, plain = (head, tail) if dot else (None, text)
    if plain not in _CONTENT_OF_TEXT or (word is not None and word not in STYLE_WORDS):
        raise ValueError(
            f"expected a small-world prompt such as 'a red circle on a gray background' or "
            f"'detailed. a red circle on a gray background', got {text!r}; colours {COLORS}, shapes {SHAPES}, "
            f"backgrounds {BACKGROUNDS}, style words {WORDS}"
        )
    return word, _CONTENT_OF_TEXT[plain]
