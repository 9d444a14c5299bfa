"""Search for the values of an arm: distributions that trials are drawn from, searcher, early stopping of trials."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from srpo_ray.config.base import Section


def check_changes(changes: dict[str, Any]) -> dict[str, Any]:
    """Refuse keys that the experiment sets itself.

    Raises:
        ValueError: If there is one.
    """
    for path in ("name", "run_root", "seed"):
        if path in changes:
            raise ValueError(
                f"expected no `{path}` among the changes of one arm, got one; the experiment names the runs and their"
                " folders, and `seeds` gives the seeds"
            )
    return changes


Changes = Annotated[dict[str, Any], AfterValidator(check_changes)]
"""Dotted config paths and their values."""


class SearchDimension(Section):
    """Distribution of one config value: exactly one of `choice`, `uniform`, `loguniform` and `randint`."""

    choice: tuple[Any, ...] | None = Field(default=None, min_length=1)
    """One of these values."""
    uniform: tuple[float, float] | None = None
    """Evenly between low and high."""
    loguniform: tuple[float, float] | None = None
    """Evenly in the logarithm between low and high, both above 0."""
    randint: tuple[int, int] | None = None
    """An integer from low up to, not including, high."""
    when: dict[str, Any] = {}
    """Condition: dotted path of a `choice` of the same space -> the value, or a list of the values, with which this
    dimension is searched. With other values, trials keep the base config's value of this key. Several paths must all
    agree; a dimension whose condition names one that is not searched is not searched either."""

    @model_validator(mode="after")
    def _check_one_kind(self) -> Self:
        given = [name for name in type(self).model_fields if name != "when" and getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                "expected exactly one of choice, uniform, loguniform, randint,"
                f" got {', '.join(given) or 'none'}; for example `{{loguniform: [1.0e-6, 1.0e-5]}}`"
            )
        low_high = self.uniform or self.loguniform or self.randint
        if low_high is not None and not low_high[0] < low_high[1]:
            raise ValueError(f"expected {given[0]} [low, high] with low < high, got {list(low_high)}; swap them")
        if self.loguniform is not None and self.loguniform[0] <= 0:
            raise ValueError(f"expected loguniform bounds above 0, got {list(self.loguniform)}; raise the lower one")
        return self

    @property
    def examples(self) -> tuple[Any, ...]:
        """Values at the ends of the dimension and one between them, enough to check it against the run config."""
        if self.choice is not None:
            return self.choice
        if self.randint is not None:
            return (self.randint[0], self.randint[1] - 1)
        bounds = self.uniform or self.loguniform
        assert bounds is not None
        low, high = bounds
        # Draws are real numbers, which a key for whole numbers takes at whole ends only.
        return (low, high, low + (high - low) / math.pi)


def allowed_values(space: Mapping[str, SearchDimension], path: str) -> dict[str, list[Any]]:
    """Values of other dimensions with which a dimension of a space is searched.

    Args:
        space: Dotted config path -> dimension.
        path: Path of the dimension.

    Raises:
        ValueError: If its condition names no `choice` of the space, or a value that is not among the choices.
    """
    allowed = {}
    for other, wanted in space[path].when.items():
        choices = space[other].choice if other in space else None
        if choices is None:
            known = ", ".join(name for name, each in space.items() if each.choice is not None and name != path)
            raise ValueError(
                f"expected `when` of {path} to name a `choice` of the same space ({known or 'there is none'}), got"
                f" {other!r}; correct the path, or give that key a `choice`"
            )
        # A list that is itself a choice is one value.
        values = wanted if wanted not in choices and isinstance(wanted, list) else [wanted]
        if not values or any(value not in choices for value in values):
            raise ValueError(
                f"expected `when` of {path} to give values among the choices of {other} ({list(choices)}), got"
                f" {wanted!r}; correct the value, or add it to the choices"
            )
        allowed[other] = values
    return allowed


def conditions_first(space: Mapping[str, SearchDimension]) -> list[str]:
    """Order the dimensions of a space so that each comes after those that its condition names.

    Raises:
        ValueError: If conditions name each other in a circle.
    """
    ordered: list[str] = []
    waiting = list(space)
    while waiting:
        ready = [path for path in waiting if all(other in ordered for other in space[path].when)]
        if not ready:
            raise ValueError(
                f"expected conditions without a circle, got `when` of {', '.join(waiting)}, each of which waits for"
                " another; remove one of them"
            )
        ordered += ready
        waiting = [path for path in waiting if path not in ready]
    return ordered


def searched_values_of(space: Mapping[str, SearchDimension], drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the values of dimensions whose condition does not hold.

    Args:
        space: Dotted config path -> dimension.
        drawn: Dotted config path -> value, for all or some of the dimensions.
    """
    kept: dict[str, Any] = {}
    for path in conditions_first(space):
        allowed = allowed_values(space, path)
        if path in drawn and all(other in kept and kept[other] in values for other, values in allowed.items()):
            kept[path] = drawn[path]
    return {path: kept[path] for path in drawn if path in kept}


def example_trial(space: Mapping[str, SearchDimension], path: str, value: Any) -> dict[str, Any]:
    """Example values of a trial with one given value.

    Args:
        space: Dotted config path -> dimension.
        path: Path of the value.
        value: The value.

    Returns:
        The value, values of other dimensions with which it is searched, and values of all dimensions that are searched
        because of these.
    """
    values: dict[str, Any] = {}
    waiting = [path]
    while waiting:
        allowed = allowed_values(space, waiting.pop())
        waiting += [other for other in allowed if other not in values]
        values = {other: choices[0] for other, choices in allowed.items()} | values
    values[path] = value
    for other in conditions_first(space):
        allowed = allowed_values(space, other)
        if allowed and all(name in values and values[name] in choices for name, choices in allowed.items()):
            values.setdefault(other, space[other].examples[0])
    return values


class SchedulerConfig(Section):
    """Early stopping of weak trials."""

    type: Literal["asha", "none"] = "asha"
    """`asha` stops trials that are behind others after the same number of updates; `none` trains all to the end."""
    grace_updates: int = Field(default=15, ge=1)
    """Updates that every trial may make before it can be stopped."""
    reduction_factor: float = Field(default=2.0, gt=1)
    """Of the trials that reach a rung, one in this many continues."""


class SearchConfig(Section):
    """Search for the values of an arm's `space` or `grid`."""

    num_samples: int = Field(default=8, ge=1)
    """Trials drawn from each arm's `space`. A `grid` has one trial per combination."""
    searcher: Literal["random", "optuna"] = "random"
    """Source of the draws: `random` draws independently; `optuna` (extra `optuna`) learns from finished trials with a
    tree-structured Parzen estimator (TPE)."""
    startup_trials: int | None = Field(default=None, ge=1)
    """Finished trials before `optuna` draws from its model; until then it draws at random. Trials of `points_from`
    count. Unset takes half of `num_samples`, at most 10."""
    constrained: bool = True
    """Tell `optuna` which finished trials broke `max_fall`, and by how much, so that it proposes fewer of them; `false`
    lets it see the objectives alone. The choice of the best trial keeps `max_fall` either way."""
    points_from: tuple[str, ...] = ()
    """Folders of earlier experiments whose finished trials `optuna` starts from: as observed trials if all their
    settings are those of a trial of this search, else as settings that are tried first."""
    seed: int = 0
    """Seed of the draws."""
    scheduler: SchedulerConfig = SchedulerConfig()
    set: Changes = {}
    """Dotted config path -> value for trials only. With another `evaluation.seed` the chosen values are not selected on
    the evaluation noise of the reported scores; an `evaluation.interval` above the number of updates evaluates a trial
    before and after training only."""

    @property
    def random_trials(self) -> int:
        """Finished trials before `optuna` draws from its model."""
        return self.startup_trials or max(1, min(10, self.num_samples // 2))

    @model_validator(mode="after")
    def _check_searcher(self) -> Self:
        learning = {"startup_trials": self.startup_trials is not None, "points_from": bool(self.points_from)}
        if self.searcher == "random" and any(learning.values()):
            given = ", ".join(name for name, is_given in learning.items() if is_given)
            raise ValueError(
                f"expected searcher: optuna with {given}, got random, which learns from no trial; set searcher to"
                f" optuna or remove {given}"
            )
        return self
