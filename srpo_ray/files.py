"""Atomic file writes: a reader never sees a partial file."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Provide a temporary path to write to, which atomically replaces `path` if the `with` block succeeds.

    Args:
        path: File to create or replace; its folder is created if needed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """Write a UTF-8 text file atomically, and return its path."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="")
    return path


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: If the content is not JSON; the message names the file.
        OSError: If the file cannot be read.
    """
    try:
        return json.loads(path.read_bytes())
    # RecursionError: brackets are nested deeper than Python's stack.
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"expected JSON in {path}, got damaged content ({error}); restore or remove the file"
        ) from error


def read_json_or(path: Path, otherwise: Any) -> Any:
    """Read a JSON file; return another value if there is none.

    Args:
        path: File to read.
        otherwise: Value without the file.

    Raises:
        ValueError: If the content is not JSON.
    """
    return read_json(path) if path.exists() else otherwise


def split_lines(content: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Split a file of lines, such as JSON lines, whose last one may be unfinished.

    Args:
        content: Bytes of the file.

    Returns:
        Number from 1 and content of each line with a line end; and what follows the last line end: empty, or a line
        that is still being written or that a crash has cut off.
    """
    *lines, unfinished = content.split(b"\n")
    return [*enumerate(lines, 1)], unfinished
