"""How many processes of a kind: a number, or a range that the number follows the work in."""

from typing import Annotated, Any, Self

from pydantic import Discriminator, Field, Tag, model_validator

from srpo_ray.config.base import Section


class CountRange(Section):
    """A number that may change while a run goes on."""

    min: int = Field(ge=1)
    """What a run starts with and never goes below."""
    max: int = Field(ge=1)
    """What it never goes above."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"expected min to be at most max, got min={self.min} and max={self.max}; swap them")
        return self


def _kind(value: Any) -> str:
    return "range" if isinstance(value, dict | CountRange) else "number"


Count = Annotated[
    Annotated[int, Field(ge=1), Tag("number")] | Annotated[CountRange, Tag("range")],
    Discriminator(_kind),
]
"""An int of at least 1, or `{min: 1, max: 8}`."""


def smallest(count: int | CountRange) -> int:
    """The number itself, or the least of a range."""
    return count.min if isinstance(count, CountRange) else count


def largest(count: int | CountRange) -> int:
    """The number itself, or the most of a range."""
    return count.max if isinstance(count, CountRange) else count
