"""Turns of processes that share work through the files of one folder: locks, and a limit of waiting."""

import fcntl
import time
from contextlib import ExitStack
from pathlib import Path

WAIT_S = 240.0
"""Maximum seconds to wait for other processes while they make no progress."""

EXCLUSIVE, SHARED = fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_SH
"""Locks: of one process, if it is free now; and of any number of processes, after a process with the other one."""


def lock(path: Path, kind: int, held: ExitStack) -> bool:
    """Lock a file, until `held` is closed or the process dies. Storage without locks grants every lock.

    Args:
        path: File, which is created if needed.
        kind: `EXCLUSIVE` or `SHARED`.
        held: Receives the lock.

    Returns:
        False if another process holds the lock.

    Raises:
        OSError: If the file cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A shared lock on a network share needs a readable file.
    file = path.open("a+")
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        file.close()
        return False
    except OSError:
        # This storage has no locks.
        pass
    held.enter_context(file)
    return True


class ProgressTimeout:
    """Limit of waiting, which each progress of the other processes renews."""

    def __init__(self) -> None:
        self._progress: object = None
        self._deadline = time.monotonic() + WAIT_S

    def has_expired(self, progress: object) -> bool:
        """Test whether the last change of a value is `WAIT_S` ago.

        Args:
            progress: Value that changes with each progress.
        """
        if progress != self._progress:
            self._progress, self._deadline = progress, time.monotonic() + WAIT_S
        return time.monotonic() >= self._deadline
