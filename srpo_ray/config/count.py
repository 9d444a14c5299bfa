"""Number of processes: a fixed number, or a range for autoscaling."""

from typing import Annotated, Any, Self

from pydantic import Discriminator, Field, Tag, model_validator

from srpo_ray.config.base import Section


class CountRange(Section):
    """Range of a number of processes that may change during a run."""

    min: int = Field(ge=1)
    """Minimum, and number at the start of a run; at least 1."""
    max: int = Field(ge=1)
    """Maximum, at least `min`."""

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
    """Return the number, or the minimum of a range."""
    return count.min if isinstance(count, CountRange) else count


def largest(count: int | CountRange) -> int:
    """Return the number, or the maximum of a range."""
    return count.max if isinstance(count, CountRange) else count
