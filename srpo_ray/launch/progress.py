"""Progress bar of a run: it reads the rows that the worker processes write."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from srpo_ray.runs.folder import RunFolder, read_rows


@contextmanager
def progress_bar(folder: RunFolder, num_updates: int, objectives: tuple[str, ...]) -> Iterator[None]:
    """Show the number of updates and the latest metrics while the block runs.

    Args:
        folder: Folder of the run.
        num_updates: Updates of the whole run.
        objectives: Evaluation metrics to show beside the training reward.
    """
    stop = threading.Event()
    # Without a terminal, a line every ten seconds is enough.
    interval = 0.5 if sys.stderr.isatty() else 10.0
    options: Any = {"unit": "update", "desc": folder.path.name, "mininterval": interval}
    with tqdm(total=num_updates, **options) as bar:

        def follow() -> None:
            while not stop.wait(interval):
                _refresh(bar, folder, objectives)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            _refresh(bar, folder, objectives)


def _refresh(bar: "tqdm[Any]", folder: RunFolder, objectives: tuple[str, ...]) -> None:
    updates, evaluations = read_rows(folder.updates), read_rows(folder.evaluations)
    shown = {
        name: value for name, value in (updates[-1] if updates else {}).items() if name.startswith("reward/total/")
    }
    shown |= {name: value for name, value in (evaluations[-1] if evaluations else {}).items() if name in objectives}
    preparing = read_rows(folder.preparing)
    bar.set_postfix(
        preparing[-1] if preparing else {name: f"{value:.3f}" for name, value in shown.items()}, refresh=False
    )
    bar.update((updates[-1]["update"] if updates else 0) - bar.n)
