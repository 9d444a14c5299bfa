"""Seconds for which the workers of a run have held their resources, written while they do."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from srpo_ray.files import read_json_or, write_text
from srpo_ray.runs.folder import RunFolder

INTERVAL_S = 5.0
"""Seconds between two writes: most of what a killed worker has held and not written."""


@contextmanager
def metered(folder: RunFolder, workers: int, gpus: float) -> Iterator[None]:
    """Count the seconds of the block as one start of the run, in `usage.json`. Worker 0 calls.

    Args:
        folder: Folder of the run.
        workers: Workers of this start.
        gpus: GPUs that all of them reserve.
    """
    earlier, began, ended = _starts(folder), time.monotonic(), threading.Event()

    def write() -> None:
        start = {"seconds": time.monotonic() - began, "workers": workers, "gpus": gpus}
        # A run does not fail because a disk is full for what only its budget needs.
        with suppress(OSError):
            write_text(folder.usage, json.dumps({"starts": [*earlier, start]}) + "\n")

    def write_until_ended() -> None:
        while not ended.wait(INTERVAL_S):
            write()

    write()
    thread = threading.Thread(target=write_until_ended, name="usage", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        write()


def used_seconds(folder: RunFolder) -> float:
    """Seconds of all starts of a run; 0 before its first."""
    return sum(start["seconds"] for start in _starts(folder))


def used_gpu_seconds(folder: RunFolder) -> float:
    """Seconds of all starts of a run times the GPUs of each; 0 before its first."""
    return sum(start["seconds"] * start["gpus"] for start in _starts(folder))


def _starts(folder: RunFolder) -> list[dict[str, float]]:
    return read_json_or(folder.usage, {"starts": []})["starts"]
