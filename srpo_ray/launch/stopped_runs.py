"""Final status of the MLflow runs of a command that an error or Ctrl-C stops."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from srpo_ray.errors import CommandInterruptedError
from srpo_ray.runs.folder import RunFolder
from srpo_ray.tracking.stopped import end_stopped_run
from srpo_ray.tracking.tracker import Status


@contextmanager
def ending_runs(folder: RunFolder, parts: Callable[[], Sequence[RunFolder]] = tuple) -> Iterator[None]:
    """End the MLflow runs of a command if the block raises: `FAILED` after an error, `KILLED` after Ctrl-C.

    A resumed command opens them again.

    Args:
        folder: Folder of the run or experiment.
        parts: Lists the folders of the runs of an experiment. Those that have not ended are `KILLED`, whatever has
            stopped the experiment, except runs that have failed themselves.
    """
    try:
        yield
    except (KeyboardInterrupt, CommandInterruptedError):
        _end(folder, parts(), "KILLED")
        raise
    except Exception:
        _end(folder, parts(), "FAILED")
        raise


def _end(folder: RunFolder, parts: Sequence[RunFolder], status: Status) -> None:
    statuses: dict[RunFolder, Status] = {folder: status}
    statuses |= {part: "FAILED" if part.failure.exists() else "KILLED" for part in parts}
    for run, stopped in statuses.items():
        final = "FINISHED" if run.finished.exists() else stopped
        # Each attempt at a store that cannot be reached takes its time.
        if not end_stopped_run(run.tracker_record, run.tracker_spool, final):
            return
