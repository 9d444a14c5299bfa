"""Files that are whole or not there: a reader never sees a part of one."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give another name to write to, which takes the place of `path` when the block has succeeded.

    Args:
        path: File to make or to replace; its folder is made if needed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """Write a UTF-8 text file, whole or not at all, and return its path."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="")
    return path


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: If it holds no JSON; the message names the file.
        OSError: If it cannot be read.
    """
    try:
        return json.loads(path.read_bytes())
    # The last one: brackets nested deeper than Python's stack.
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"expected JSON in {path}, got damaged content ({error}); restore or remove the file"
        ) from error
