"""Imports of large packages without garbage collection, which takes a quarter of their time."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """Import large packages in the block: what they make stays, so looking through it for garbage is in vain."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def spare_imported() -> None:
    """Let no later collection look through what has been imported so far."""
    gc.freeze()
    # At the end of the process extension modules would report all of it as leaked.
    atexit.register(gc.unfreeze)
