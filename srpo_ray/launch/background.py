"""Work of a thread while the process waits for others, such as imports while Ray starts."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Result = TypeVar("Result")


@contextmanager
def in_background(work: Callable[[], Result]) -> Iterator[Callable[[], Result]]:
    """Run a function in a thread beside the block; the end of the block waits for it.

    Args:
        work: Function without arguments.

    Yields:
        Function that waits for the result of the work, and raises its error if it has failed.
    """
    with ThreadPoolExecutor(max_workers=1) as executor:
        yield executor.submit(work).result
