"""Imports of large packages without garbage collection, which takes a quarter of their time."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """Disable garbage collection during imports in the block: imported objects stay, so it would free nothing."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def spare_imported() -> None:
    """Exclude all objects that exist now from later garbage collections."""
    gc.freeze()
    # At the end of the process extension modules would report all of it as leaked.
    atexit.register(gc.unfreeze)
