"""Decisions by votes that an experiment has made: a file in its folder, so that later votes change none of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from srpo_ray.files import read_json_or, write_text

DECIDED_FILE = "votes_decided.json"
"""Name of the file of decisions in the folder of an experiment."""


@dataclass(frozen=True)
class Decided:
    """Decision of the votes on some runs of an experiment."""

    runs: Sequence[str]
    """Names of the runs that were voted on, beside the base model."""
    votes: Sequence[str]
    """Ids of the votes that counted."""
    strengths: Mapping[str, float]
    """Name of a run -> its strength, in log-odds of a win against the base model; without runs that had no vote."""


def write_decided(folder: Path, decided: Decided) -> None:
    """Add a decision to those of an experiment."""
    found = [*_read(folder), decided]
    write_text(folder / DECIDED_FILE, json.dumps([asdict(each) for each in found], indent=1) + "\n")


def read_decided(folder: Path, runs: Sequence[str]) -> Decided | None:
    """Read the decision on exactly these runs, in any order; None if there is none yet.

    Raises:
        ValueError: If the file is damaged.
    """
    return next((each for each in _read(folder) if set(each.runs) == set(runs)), None)


def _read(folder: Path) -> list[Decided]:
    path = folder / DECIDED_FILE
    found = read_json_or(path, [])
    try:
        return [Decided(tuple(each["runs"]), tuple(each["votes"]), dict(each["strengths"])) for each in found]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"expected a list of decisions with runs, votes and strengths in {path}, got other content; restore the"
            " file, or begin the experiment under another name"
        ) from error
