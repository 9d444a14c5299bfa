"""Results that are kept, as planning asks for the same model again and again."""

from collections.abc import Callable
from functools import cache
from typing import ParamSpec, TypeVar, cast

from srpo_ray.config.base import Section

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=Section)


def cached(function: Callable[P, R]) -> Callable[P, R]:
    """`functools.cache` for sections of a config: they are frozen, so they hash, which type checkers do not see."""
    return cast(Callable[P, R], cache(function))


def only(section: S, *fields: str) -> S:
    """The section with these fields alone, so that a result that needs no others is kept whatever the others are."""
    return type(section)(**{name: getattr(section, name) for name in fields})
