"""Clock of an experiment with a budget: wall-clock seconds of its starts, its phases and its runs."""

import json
import time
from pathlib import Path
from statistics import fmean

from srpo_ray.files import read_json_or, write_text
from srpo_ray.planning.starts import PHASE_S

HOUR = 3600
STALE_S = 60.0
"""Seconds after the last note of the clock from which on the experiment does not run."""


def clock_file(folder: Path) -> Path:
    """File of the wall-clock time of an experiment's starts."""
    return folder / "budget" / "clock.json"


def phases_file(folder: Path) -> Path:
    """File of the wall-clock seconds from the beginning of each phase to the first request of a run."""
    return folder / "budget" / "phases.json"


def walls_file(folder: Path) -> Path:
    """File of the wall-clock seconds of ended runs, from the budget's answer to the end of their processes."""
    return folder / "budget" / "walls.json"


def note_seconds(file: Path, name: str, seconds: float) -> None:
    """Note seconds under a name, unless they are noted already.

    Args:
        file: `phases_file` or `walls_file` of an experiment.
        name: Name of the phase or run.
        seconds: The seconds.
    """
    known = read_json_or(file, {})
    if name not in known:
        write_text(file, json.dumps({**known, name: seconds}) + "\n")


def phase_hours(folder: Path) -> float:
    """Mean wall-clock hours from the beginning of a phase to its first run; `PHASE_S` until one is measured."""
    return fmean([*read_json_or(phases_file(folder), {}).values()] or [PHASE_S]) / HOUR


def longest_phase_hours(folder: Path) -> float:
    """Longest measured wall-clock hours from the beginning of a phase to its first run, but at least `PHASE_S`.

    The runs after a search are reserved for with it, because a start that takes longer than usual would refuse them.
    """
    return max([PHASE_S, *read_json_or(phases_file(folder), {}).values()]) / HOUR


def elapsed_s(folder: Path) -> float:
    """Wall-clock seconds of an experiment over all its starts; 0 before the first."""
    clock: dict[str, float] | None = read_json_or(clock_file(folder), None)
    if clock is None:
        return 0.0
    now = time.time()
    # An experiment that is over or was killed notes the clock no more.
    until = now if now - clock["seen"] < STALE_S else clock["seen"]
    return clock["earlier_s"] + until - clock["began"]


def begin(folder: Path) -> None:
    """Start the clock, from what earlier starts have counted."""
    clock = read_json_or(clock_file(folder), {"earlier_s": 0.0, "began": 0.0, "seen": 0.0})
    earlier, now = clock["earlier_s"] + clock["seen"] - clock["began"], time.time()
    write_text(clock_file(folder), json.dumps({"earlier_s": earlier, "began": now, "seen": now}) + "\n")


def tick(folder: Path) -> None:
    """Note that the experiment still runs."""
    clock = read_json_or(clock_file(folder), {})
    write_text(clock_file(folder), json.dumps({**clock, "seen": time.time()}) + "\n")
