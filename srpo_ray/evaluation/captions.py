"""Captions of images: choice of a font with their characters, and line breaks at a given width."""

import importlib.util
import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from PIL import ImageFont

FONT_SIZE = 14
_DOTS = "..."
_NO_FONT = "(no font) "
_NO_CHARACTER = "\uffff"
"""Unassigned character: every font draws it as it draws characters that it lacks."""

_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.fonts",
    "~/.local/share/fonts",
    "/Library/Fonts",
    "/System/Library/Fonts",
    "~/Library/Fonts",
    "C:/Windows/Fonts",
)
_FILES = (
    "DejaVuSans.ttf",
    "NotoSansCJK*-Regular.*",
    "NotoSansSC*",
    "SourceHanSans*-Regular.*",
    "wqy-*",
    "DroidSansFallback*",
    "PingFang*",
    "Hiragino*",
    "AppleSDGothicNeo*",
    "msyh.*",
    "YuGothR.*",
    "malgun.*",
    "Arial Unicode*",
    "NotoSans*-Regular.*",
    "FreeSans.*",
    "unifont*",
)
"""Names of fonts with many characters, in order of preference."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def caption_of_row(prompt: str, conditioning: str) -> str:
    """Build the caption of an image: its prompt, and the text that conditioned the model if that is another one."""
    return prompt if conditioning == prompt else f"{prompt} (model: {conditioning})"


def caption_lines(text: str, width: int, most: int, files: Sequence[Path] | None = None) -> tuple[list[str], Font]:
    """Break a caption into lines, and choose the font to draw them with.

    Pillow's default font has ASCII and a few quotes. A text with other characters is drawn with the first font of
    `files` that has all of them. Characters that no font has become escapes such as `\\u732b`, after "(no font)".

    Args:
        text: Caption.
        width: Width of a line in pixels.
        most: Maximum number of lines; a longer text ends in an ellipsis.
        files: Font files in order of preference; those of the machine by default.
    """
    # Only as many characters are examined as fit if each is one pixel wide.
    start, font = legible(_cut(" ".join(text.split()), most * width), installed_fonts() if files is None else files)
    return fit_lines(start, font.getlength, width, most), font


def fit_lines(text: str, measure: Callable[[str], float], width: int, most: int) -> list[str]:
    """Break a text between words into at most `most` lines of `width` pixels.

    The last line gets all remaining words, as does a line whose first word is too long. If such a line does not fit, it
    is cut and ends in an ellipsis.

    Args:
        text: Text to break; any white space counts as one blank.
        measure: Function from a text to its width in pixels.
        width: Width of a line in pixels.
        most: Maximum number of lines.
    """
    lines: list[str] = []
    words = text.split()
    while words:
        count = len(words) if len(lines) == most - 1 else _fitting_words(words, measure, width) or len(words)
        lines.append(_shortened(" ".join(words[:count]), measure, width))
        words = words[count:]
    return lines


def _fitting_words(words: Sequence[str], measure: Callable[[str], float], width: int) -> int:
    return _largest(lambda count: measure(" ".join(words[:count])) <= width, len(words))


def _shortened(line: str, measure: Callable[[str], float], width: int) -> str:
    if measure(line) <= width:
        return line
    count = _largest(lambda count: measure(line[:count] + _DOTS) <= width, len(line))
    return line[:count].rstrip() + _DOTS


def _largest(fits: Callable[[int], bool], end: int) -> int:
    """Find the largest number from 1 to `end` that fits, if `fits` is monotonic; 0 if none fits."""
    high = 1
    # Doubling first keeps the measured texts about as short as those that fit.
    while high < end and fits(high):
        high *= 2
    return bisect_left(range(1, min(high, end) + 1), True, key=lambda count: not fits(count))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + _DOTS


def legible(text: str, files: Sequence[Path]) -> tuple[str, Font]:
    """Return a text that can be drawn, and the font for it; see `caption_lines`."""
    characters = set(text)
    best, missing = default_font(), characters
    for font in _fonts(files):
        lacking = {character for character in characters if not _has(font, character)}
        if not lacking:
            return text, font
        if len(lacking) < len(missing) and _has(font, "\\"):
            best, missing = font, lacking
    escaped = (character.encode("unicode_escape").decode() if character in missing else character for character in text)
    return _NO_FONT + "".join(escaped), best


def _fonts(files: Sequence[Path]) -> Iterator[Font]:
    yield default_font()
    for file in files:
        font = _open(file)
        if font is not None:
            yield font


@cache
def default_font() -> Font:
    """Return Pillow's default font."""
    return ImageFont.load_default(FONT_SIZE)


@cache
def _open(file: Path) -> Font | None:
    try:
        return ImageFont.truetype(str(file), FONT_SIZE)
    except OSError:
        # This is a bitmap font for one size only, or a broken file.
        return None


@lru_cache(1 << 16)
def _has(font: Font, character: str) -> bool:
    if "\ud800" <= character <= "\udfff":
        return False
    return _glyph(font, character) != _glyph(font, _NO_CHARACTER)


def _glyph(font: Font, character: str) -> tuple[object, bytes]:
    mask: Any = _unshaped(font).getmask(character)
    return mask.size, bytes(mask)


@cache
def _unshaped(font: Font) -> Font:
    """Return the font with one glyph per character; shaping would put a dotted circle under a lone accent."""
    if isinstance(font, ImageFont.FreeTypeFont):
        return font.font_variant(layout_engine=ImageFont.Layout.BASIC)
    return font


@cache
def installed_fonts() -> tuple[Path, ...]:
    """Find font files with many characters in the usual folders of this machine, in order of preference."""
    # MLflow depends on matplotlib, which contains DejaVu Sans.
    found = importlib.util.find_spec("matplotlib")
    shipped = [Path(found.origin).parent / "mpl-data/fonts/ttf"] if found and found.origin else []
    folders = [*shipped, *(Path(folder).expanduser() for folder in _FOLDERS)]
    files = [Path(parent, name) for folder in folders for parent, _, names in os.walk(folder) for name in sorted(names)]
    return tuple(file for pattern in _FILES for file in files if fnmatch(file.name.lower(), pattern.lower()))
