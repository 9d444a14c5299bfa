"""Results that are kept, as planning asks for the same model again and again."""

from collections.abc import Callable
from functools import cache
from typing import ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")


def cached(function: Callable[P, R]) -> Callable[P, R]:
    """`functools.cache` for sections of a config: they are frozen, so they hash, which type checkers do not see."""
    return cast(Callable[P, R], cache(function))
