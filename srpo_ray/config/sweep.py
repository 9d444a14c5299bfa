"""A hyper-parameter study: which dotted config paths vary, how they are drawn, and what is compared."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from srpo_ray.config.base import Name, Section, check_name, check_names


def check_objective(objective: str) -> str:
    """Refuse the training reward as what is searched for.

    Raises:
        ValueError: If the metric is a score of the models that are trained on.
    """
    if objective.partition("/")[0] == "reward":
        raise ValueError(
            f"expected a score that no run is trained to raise, such as evaluator/held_out, got {objective!r}; the"
            " search would choose the run that hacks its reward best"
        )
    return objective


Objective = Annotated[str, Field(min_length=1), AfterValidator(check_objective)]


class SearchDimension(Section):
    """How one config value is drawn; exactly one of the fields is given."""

    choice: tuple[Any, ...] | None = Field(default=None, min_length=1)
    """One of these values."""
    uniform: tuple[float, float] | None = None
    """Evenly between low and high."""
    loguniform: tuple[float, float] | None = None
    """Evenly in the logarithm between low and high, both above 0."""
    randint: tuple[int, int] | None = None
    """An integer from low up to, not including, high."""

    @model_validator(mode="after")
    def _check_one_kind(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
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


class SchedulerConfig(Section):
    """Early stopping of weak trials."""

    type: Literal["asha", "none"] = "asha"
    """`asha` stops trials that are behind others after the same number of updates; `none` trains all to the end."""
    grace_updates: int = Field(default=15, ge=1)
    """Updates that every trial may make before it can be stopped."""
    reduction_factor: float = Field(default=2.0, gt=1)
    """Of the trials that reach a rung, one in this many goes on."""


class Comparison(Section):
    """A run beside the search: the best trial's config with a few values changed."""

    name: str = Field(min_length=1)
    """What the row is called in the table and the report."""
    set: dict[str, Any]
    """Dotted config paths and their values."""


class SweepConfig(Section):
    """A sweep file: a base config, a search space in its dotted paths, and comparisons with the best trial."""

    name: Name = "sweep"
    """Name of the sweep and of its folder under the base config's `run_root`."""
    base: str | tuple[str, ...]
    """Run config file or files that every trial starts from, relative to the sweep file."""
    space: dict[str, SearchDimension] = Field(min_length=1)
    """Dotted config path -> how it is drawn."""
    num_samples: int = Field(default=8, ge=1)
    """Trials that are drawn from the space."""
    max_concurrent_trials: int = Field(default=2, ge=1)
    """Trials that run at the same time."""
    objective: Objective = "evaluator/held_out"
    """Metric that trials are ranked by: a held-out score, never the training reward."""
    mode: Literal["max", "min"] = "max"
    """Whether a larger or a smaller objective is better."""
    max_fall: dict[str, float] = {}
    """Metric -> most that it may fall below the base model in the trial that is called best."""
    searcher: Literal["random", "optuna"] = "random"
    """`random` draws independently; `optuna` (extra `optuna`) learns from finished trials."""
    seed: int = 0
    """Seed of the search."""
    scheduler: SchedulerConfig = SchedulerConfig()
    repeat_seeds: tuple[int, ...] = ()
    """Seeds that the best trial is trained with again, to state a spread; none is the `seed` of the trials themselves,
    as the best of them was chosen by its score."""
    comparisons: tuple[Comparison, ...] = ()
    """Ablations of the best trial, trained after the search."""

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        # Trials are numbered from 0 or 1, as the searcher counts.
        taken = [f"seed {n}" for n in self.repeat_seeds] + [f"trial {n}" for n in range(self.num_samples + 1)]
        check_names([comparison.name for comparison in self.comparisons] + taken)
        # The config of the best trial has this name.
        check_name(f"{self.name}_best")
        return self
