"""Arms of an experiment, which are searched or given, and ablations: their changes to the base config."""

from math import prod
from typing import Any, Self

from pydantic import Field, model_validator

from srpo_ray.config.base import Section
from srpo_ray.config.changes import Changes, check_changes
from srpo_ray.config.conditions import allowed_values, conditions_first
from srpo_ray.config.scheduler import UPDATES, Round
from srpo_ray.config.search import SearchDimension
from srpo_ray.config.widening import check_widening


class Arm(Section):
    """One method or setting: its changes to the base config, and the values that are searched for it."""

    name: str = Field(min_length=1)
    """Name in tables and figures. Folders of its runs begin with it."""
    like: str | None = None
    """Name of an earlier arm whose changes and searched values this arm starts from."""
    config: str | tuple[str, ...] = ()
    """Run config file or files whose values the arm takes, as those of `base` are found: for example
    `configs/algorithms/awm.yaml`. `set` changes them."""
    set: Changes = {}
    """Dotted config path -> value."""
    space: dict[str, SearchDimension] = {}
    """Dotted config path -> distribution that trials are drawn from."""
    grid: dict[str, tuple[Any, ...]] = {}
    """Dotted config path -> values. Every combination is trained to its end."""
    widen: int = Field(default=0, ge=0, le=32)
    """Most values to add to the `grid`, one after the other: while the best value is the first or the last, the next
    one beyond that end is trained. The grid must have one path, with two or more numbers. 0 adds none."""
    schedule: tuple[Round, ...] = ()
    """Values by updates: each round continues from the checkpoint of the round before it. The last round ends at
    `training.num_updates`. A search with `pbt` writes such a schedule."""
    seeds: tuple[int, ...] | None = None
    """Seeds of this arm's training runs; unset takes those of the experiment."""

    @property
    def searched(self) -> tuple[str, ...]:
        """Dotted config paths whose values a search of this arm finds."""
        return (*self.space, *self.grid)

    def num_trials(self, num_samples: int) -> int:
        """Number of trials of this arm's search, without the values that `widen` may add; 0 without a search.

        Args:
            num_samples: Trials that are drawn from a space.
        """
        if self.grid:
            return prod(map(len, self.grid.values()))
        return num_samples if self.space else 0

    @model_validator(mode="after")
    def _check_search(self) -> Self:
        check_changes(dict.fromkeys(self.searched))
        empty = [path for path, values in self.grid.items() if not values]
        if empty:
            raise ValueError(f"expected values in the grid of {', '.join(empty)}, got none; give a list or remove it")
        if self.space and self.grid:
            raise ValueError(
                f"expected `space` or `grid` in arm {self.name!r}, got both; give lists of values as"
                " `{choice: [...]}` in the space"
            )
        for path in self.space:
            allowed_values(self.space, path)
        conditions_first(self.space)
        if self.widen:
            check_widening(self.name, self.grid)
        if self.like is not None and self.searched:
            raise ValueError(
                f"expected no `space` or `grid` in arm {self.name!r}, which takes its values from {self.like!r}, got"
                f" {', '.join(self.searched)}; search that arm, or remove `like`"
            )
        return self

    @model_validator(mode="after")
    def _check_schedule(self) -> Self:
        ends = [part.updates for part in self.schedule]
        if ends != sorted(set(ends)):
            raise ValueError(
                f"expected a schedule with rising updates in arm {self.name!r}, got {ends}; sort its rounds"
            )
        if self.schedule and (self.like is not None or self.searched):
            raise ValueError(
                f"expected no `like`, `space` or `grid` beside the schedule of arm {self.name!r}, got"
                f" {self.like or ', '.join(self.searched)}; give values that do not change in `set`"
            )
        if any(UPDATES in part.set for part in self.schedule):
            raise ValueError(
                f"expected no {UPDATES} in the schedule of arm {self.name!r}, got one; `updates` gives the end of a"
                " round, and `set` of the arm the number of all updates"
            )
        return self


def rounds_of(arm: Arm) -> list[tuple[str, dict[str, Any]]]:
    """Place in the file and changes of each round of an arm; one without changes if it has no schedule."""
    rounds = [
        (f": schedule, round {number}", {**part.set, **({UPDATES: part.updates} if number < len(arm.schedule) else {})})
        for number, part in enumerate(arm.schedule, 1)
    ]
    return rounds or [("", {})]


class Ablation(Section):
    """The reference arm, with its searched values, and a few values changed."""

    name: str = Field(min_length=1)
    """Name in tables and figures. Folders of its runs begin with it."""
    set: Changes
    """Dotted config path -> value."""
    seeds: tuple[int, ...] | None = None
    """Seeds of this ablation's training runs; unset takes those of the experiment."""
