"""Work of a thread while the process waits for others, such as imports while Ray starts."""

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

_NICENESS = 5
"""Nice value of the thread: among busy processes with 0, it gets a quarter of a core."""


@contextmanager
def begun_in_background(steps: Iterable[Callable[[], object]]) -> Iterator[Callable[[], None]]:
    """Run functions one after another in a thread beside the block, until the caller takes over.

    The thread has a low priority, so that processes which start at the same time do not wait for it. On a busy machine
    it hardly runs, so the caller waits for the current function only, and runs the others itself.

    Args:
        steps: Functions without arguments, in order.

    Yields:
        Function that returns when all of them have run. It raises the error of the first that fails.
    """
    left, taken = deque(steps), threading.Event()

    def run() -> None:
        _lower_priority()
        while left and not taken.is_set():
            left.popleft()()

    with ThreadPoolExecutor(max_workers=1) as executor:
        begun = executor.submit(run)

        def finish() -> None:
            taken.set()
            begun.result()
            while left:
                left.popleft()()

        try:
            yield finish
        finally:
            taken.set()


def _lower_priority() -> None:
    """Let other threads compute before the calling one, for good. Only Linux has a priority for each thread."""
    if sys.platform == "linux":
        # A sandbox may forbid it.
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
