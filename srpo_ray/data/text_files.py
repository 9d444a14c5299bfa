"""Text files of any editor: encodings, line endings and JSON."""

import codecs
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

_MARKED = (
    # The mark of UTF-32 begins with the mark of UTF-16, so it comes first.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LINE_END = re.compile(r"\r\n|\n|\r")
_CURE = "save the file as UTF-8"


class TextFileError(ValueError):
    """Content that is invalid in its format; the message names neither the file nor the config key."""


def decode_text(content: bytes) -> str:
    """Decode UTF-8 with or without a byte order mark, and UTF-16 or UTF-32 with one.

    Args:
        content: All bytes of a file.

    Returns:
        The text without the byte order mark; it contains no NUL and no unpaired surrogate.

    Raises:
        TextFileError: If the bytes are not such text, or contain NUL, as UTF-16 without a byte order mark does.
    """
    encoding = next((name for mark, name in _MARKED if content.startswith(mark)), "utf-8-sig")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8-sig":
            raise TextFileError(
                f"expected text, got {encoding.upper()} that is invalid from byte {error.start} on; {_CURE}"
            ) from error
        # The position counts from the end of the byte order mark, which contains no line ending.
        data = error.object
        line = _line_number(data[: error.start].decode())
        raise TextFileError(
            f"expected text in UTF-8, got byte 0x{data[error.start]:02X} on line {line}; {_CURE}"
        ) from error
    if "\0" in text:
        line = _line_number(text[: text.index("\0")])
        raise TextFileError(
            f"expected text in UTF-8, got the character NUL on line {line}, which suggests a binary file or UTF-16"
            f" without a byte order mark; {_CURE}"
        )
    return text


def read_text_file(path: Path) -> str:
    """Read and decode a file; see `decode_text`.

    Raises:
        OSError: If the file cannot be read.
        TextFileError: If it is not text.
    """
    return decode_text(path.read_bytes())


def split_lines(text: str) -> list[str]:
    r"""Split a text at `\n`, `\r\n` and `\r` only; a final line ending adds no empty line.

    `str.splitlines` also splits at form feeds, U+0085, U+2028 and others, which may be part of a prompt or of JSON.
    """
    lines = _LINE_END.split(text)
    return lines if lines[-1] else lines[:-1]


def parse_json(text: str, make_object: Callable[[Sequence[tuple[str, object]]], object] = dict) -> object:
    """Parse JSON.

    Args:
        text: The JSON.
        make_object: Converts an object's pairs of key and value, which may repeat a key.

    Raises:
        TextFileError: If the text is not JSON, is nested too deeply or has a number with thousands of digits.
    """
    try:
        return json.loads(text, object_pairs_hook=make_object)
    except RecursionError as error:
        raise TextFileError("expected JSON, got lists or objects that are nested too deeply; flatten them") from error
    except json.JSONDecodeError as error:
        raise TextFileError(f"expected JSON, got a syntax error: {error}; fix it") from error
    except ValueError as error:
        raise TextFileError("expected JSON, got a number with thousands of digits; shorten it") from error


def _line_number(before: str) -> int:
    return len(_LINE_END.split(before))
