"""Search for the values of an arm: distributions that trials are drawn from, searcher, early stopping of trials."""

import math
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.base import Section
from srpo_ray.config.changes import Changes
from srpo_ray.config.home import HomePath
from srpo_ray.config.scheduler import UPDATES, SchedulerConfig


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
    points_from: tuple[HomePath, ...] = ()
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

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        scheduler = self.scheduler
        if scheduler.continues and self.searcher != "random":
            raise ValueError(
                f"expected searcher: random with scheduler.type: {scheduler.type}, got {self.searcher}; all trials"
                " start together, so no searcher could learn from finished ones"
            )
        if scheduler.continues and self.num_samples < 2:
            raise ValueError(
                f"expected num_samples of 2 or more with scheduler.type: {scheduler.type}, which compares trials, got"
                f" {self.num_samples}; raise it"
            )
        if twice := sorted({path for rung in scheduler.rungs for path in rung.set} & {*self.set, UPDATES}):
            raise ValueError(
                f"expected no key of search.set, and no {UPDATES}, in `set` of a rung, got {', '.join(twice)};"
                " `updates` gives the updates of a rung: remove it there"
            )
        return self
