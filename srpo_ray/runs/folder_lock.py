"""Lock of the folder of a run, an experiment or a sampling job: one process at a time writes it."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"
"""Name of the lock file in the folder."""


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a folder for this process during the block.

    The system frees the lock of a process that was killed. Storage without locks, such as some network shares, is not
    protected.

    Args:
        folder: The folder, which exists.

    Raises:
        ValueError: If another process holds it.
    """
    try:
        opened = (folder / LOCK).open("a+")
    except OSError as error:
        raise ValueError(
            f"expected a writable {folder / LOCK}, got {error.strerror}; it may belong to another user: choose another"
            " folder, or remove the file if nobody works there"
        ) from error
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(
                f"expected {folder} to be free, got {file.read().strip() or 'another process'} at work in it; wait for"
                " it, stop it, or choose another name"
            ) from None
        except OSError:
            # The storage has no locks.
            pass
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
