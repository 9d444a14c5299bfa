"""Imports of large packages: without garbage collection, which takes a quarter of their time, and by one thread."""

import atexit
import gc
import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

_IMPORTING = threading.RLock()


@contextmanager
def by_one_thread() -> Iterator[None]:
    """Let the imports of threads in such blocks wait for each other.

    Where two threads wait for each other's imports, Python gives one of them a package that is half imported. numpy
    cannot be imported in the process after that.
    """
    with _IMPORTING:
        yield


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


@contextmanager
def large_imports() -> Iterator[None]:
    """Import large packages in the block without garbage collection, and exclude them from all later ones.

    A collection looks through every object. With the packages of a training loop, one takes a tenth of a second.
    """
    known = len(sys.modules)
    with without_collection():
        yield
        # Before collections are enabled again: the first one would look through all of it.
        if len(sys.modules) > known:
            spare_imported()


def import_steps(*names: str) -> list[Callable[[], object]]:
    """Return the imports of modules as functions to call in order.

    Args:
        *names: Names of the modules.
    """
    return [partial(_import, name) for name in names]


def _import(name: str) -> None:
    with by_one_thread(), large_imports():
        importlib.import_module(name)


def spare_imported() -> None:
    """Exclude all objects that exist now from later garbage collections."""
    gc.freeze()
    # At the end of the process extension modules would report all of it as leaked.
    atexit.register(gc.unfreeze)
