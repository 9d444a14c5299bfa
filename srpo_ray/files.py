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
