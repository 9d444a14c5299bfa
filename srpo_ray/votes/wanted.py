"""Votes that an experiment waits for: a file in its folder, which `srpo-ray vote` reads."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from srpo_ray.files import read_json, write_text

_FILE = "votes_wanted.json"


@dataclass(frozen=True)
class Wanted:
    """Request for votes."""

    runs: Sequence[str]
    """Names of the runs to vote on, beside the base model."""
    needed: int
    """Votes on them until the experiment goes on; hidden repeats do not count."""


def write_wanted(folder: Path, wanted: Wanted) -> None:
    """Ask for votes on the runs of an experiment."""
    write_text(folder / _FILE, json.dumps(asdict(wanted)))


def remove_wanted(folder: Path) -> None:
    """Withdraw the request."""
    (folder / _FILE).unlink(missing_ok=True)


def read_wanted(folder: Path) -> Wanted | None:
    """Read the request of an experiment; None if it waits for no votes.

    Raises:
        ValueError: If the file is damaged.
    """
    path = folder / _FILE
    if not path.exists():
        return None
    match read_json(path):
        case {"runs": [*runs], "needed": int(needed)}:
            return Wanted(tuple(map(str, runs)), needed)
        case other:
            raise ValueError(f"expected the runs and the number of votes in {path}, got {other!r}; remove the file")
