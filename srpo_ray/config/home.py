"""Paths that begin with `~`: a shell expands it at the start of a word only, and YAML never."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator


def with_home(path: str) -> str:
    """Replace `~` or `~USER` at the start of a path by the home folder.

    Raises:
        ValueError: If there is no such user.
    """
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise ValueError(
            f"expected ~, or ~NAME with the name of a user of this machine, got {path!r}; write the path in full"
        ) from error


HomePath = Annotated[str, AfterValidator(with_home)]
"""Path, hub id or embedded name; `~` at its start is the home folder."""
