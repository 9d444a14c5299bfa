"""An experiment: arms that are searched or given, each trained with several seeds, and ablations of one of them."""

from collections.abc import Iterator, Mapping
from math import prod
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from srpo_ray.config.base import Name, Section, check_name, check_names
from srpo_ray.config.budget import BudgetConfig, GpuModels, Price, check_prices
from srpo_ray.config.evaluation import Objective
from srpo_ray.config.search import Changes, SearchConfig, SearchDimension, check_changes

TEST = "evaluation.test"
"""Config path of the test prompts."""


def _of_test(path: str) -> bool:
    return path == TEST or path.startswith(f"{TEST}.")


def _concurrency_kind(value: object) -> str:
    return "auto" if isinstance(value, str) else "number"


Concurrency = Annotated[
    Annotated[Literal["auto"], Tag("auto")] | Annotated[Annotated[int, Field(ge=1)], Tag("number")],
    Discriminator(_concurrency_kind),
]
"""Runs at the same time: an int of at least 1, or `auto`."""


class Arm(Section):
    """One method or setting: its changes to the base config, and the values that are searched for it."""

    name: str = Field(min_length=1)
    """Name in tables and figures. Folders of its runs begin with it."""
    like: str | None = None
    """Name of an earlier arm whose changes and searched values this arm starts from."""
    set: Changes = {}
    """Dotted config path -> value."""
    space: dict[str, SearchDimension] = {}
    """Dotted config path -> distribution that trials are drawn from."""
    grid: dict[str, tuple[Any, ...]] = {}
    """Dotted config path -> values. Every combination is trained to its end."""
    seeds: tuple[int, ...] | None = None
    """Seeds of this arm's training runs; unset takes those of the experiment."""

    @property
    def searched(self) -> tuple[str, ...]:
        """Dotted config paths whose values a search of this arm finds."""
        return (*self.space, *self.grid)

    def num_trials(self, num_samples: int) -> int:
        """Number of trials of this arm's search; 0 without one.

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
        if self.like is not None and self.searched:
            raise ValueError(
                f"expected no `space` or `grid` in arm {self.name!r}, which takes its values from {self.like!r}, got"
                f" {', '.join(self.searched)}; search that arm, or remove `like`"
            )
        return self


class Ablation(Section):
    """The reference arm, with its searched values, and a few values changed."""

    name: str = Field(min_length=1)
    """Name in tables and figures. Folders of its runs begin with it."""
    set: Changes
    """Dotted config path -> value."""
    seeds: tuple[int, ...] | None = None
    """Seeds of this ablation's training runs; unset takes those of the experiment."""


class ExperimentConfig(Section):
    """An experiment file: a base config, arms that change it, and ablations of one arm.

    A hyper-parameter sweep is one arm with a `space`. A comparison of methods has several arms.
    """

    prefix: ClassVar[str] = "experiment."

    name: Name = "experiment"
    """Name of the experiment and of its folder under the base config's `run_root`."""
    base: str | tuple[str, ...]
    """Run config file or files that every run starts from, relative to the experiment file."""
    arms: tuple[Arm, ...] = Field(min_length=1)
    """Methods or settings to compare. `training.num_updates` of each sets its compute, which the report measures."""
    reference_arm: str | None = None
    """Name of the arm that ablations change and that other arms are compared with; unset takes the first."""
    ablations: tuple[Ablation, ...] = ()
    """Changes to the reference arm, each trained as an arm is."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds that each arm and ablation is trained with, after the search. None may be the seed of the trials, because a
    chosen trial's score is the best of several. Empty: search only."""
    search: SearchConfig = SearchConfig()
    objective: Objective = "evaluator/held_out"
    """Metric that trials are chosen by and arms are compared by: a held-out score, never the training reward."""
    mode: Literal["max", "min"] = "max"
    """Direction of a better objective."""
    max_fall: dict[str, float] = {}
    """Metric -> largest fall below the baseline that a chosen trial, or the best arm, may have."""
    target_share: float = Field(default=0.5, gt=0, le=1)
    """Share of the reference arm's gain over the baseline that the cost of all arms is counted to."""
    equal_gain: tuple[str, ...] = ()
    """Metrics, for example truth/detail: the report compares the side effects of the arms at equal gain of each. Empty
    takes the objective."""
    max_concurrent_trials: Concurrency = 2
    """Runs at the same time: a number, or `auto` for as many as the cluster has room for beside the reward replicas,
    with the nodes that its autoscaler may add."""
    budget: BudgetConfig | None = None
    """Most that search and final runs may spend together; unset sets no limit."""
    price: Price | None = None
    """Price of a GPU-hour: one number, or one for each GPU model, for example `{H100: 2.5}`. A budget of money needs
    it."""
    gpus: GpuModels | None = None
    """GPU models of trainers and reward replicas, for example `{trainers: H100, rewards: L40S}`, for prices and for the
    plan that checks the budget before the start; unset takes the only model in `price`."""

    @property
    def parts(self) -> tuple[Arm | Ablation, ...]:
        """Arms, then ablations: each is trained with its seeds."""
        return (*self.arms, *self.ablations)

    @property
    def concurrency(self) -> int:
        """Runs at the same time, once `auto` is replaced by a number."""
        assert self.max_concurrent_trials != "auto"
        return self.max_concurrent_trials

    @property
    def reference(self) -> Arm:
        """The arm that ablations change and that other arms are compared with."""
        return self.arms[0] if self.reference_arm is None else self.arm(self.reference_arm)

    def arm(self, name: str) -> Arm:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    def origin(self, arm: Arm) -> Arm:
        """The arm whose search finds the values of an arm: itself, or the one at the end of its `like`s."""
        return arm if arm.like is None else self.origin(self.arm(arm.like))

    def changes(self, arm: Arm, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Changes of an arm to the base config.

        Args:
            arm: The arm.
            values: Values that the search of its origin found. What an arm that is like another sets itself comes last.
        """
        if arm.like is None:
            return {**arm.set, **(values or {})}
        return {**self.changes(self.arm(arm.like), values), **arm.set}

    def trial_settings(self, arm_changes: Mapping[str, Any]) -> dict[str, Any]:
        """Changes of an arm's trials to the base config: those of the arm, then `search.set`.

        Trials are not tested, so that the test prompts choose nothing.

        Args:
            arm_changes: Changes of the arm.
        """
        changes = {path: value for path, value in arm_changes.items() if not _of_test(path)}
        return {**changes, **self.search.set, TEST: None}

    def trained_changes(self) -> list[tuple[str, dict[str, Any]]]:
        """Changes of each arm, without searched values, and each ablation, with their place in the file."""
        reference = self.changes(self.reference)
        arms = [(f"arm {arm.name!r}", self.changes(arm)) for arm in self.arms]
        return arms + [(f"ablation {each.name!r}", {**reference, **each.set}) for each in self.ablations]

    def trial_changes(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Changes of example trials: each value of a list and the bounds of a range, with its place in the file."""
        for arm in self.arms:
            changes, origin = self.changes(arm), f"arm {arm.name!r}"
            examples = {path: dimension.examples for path, dimension in arm.space.items()}
            for kind, searched in (("space", examples), ("grid", arm.grid)):
                for path, values in searched.items():
                    yield from ((f"{origin}: {kind}.{path}", {**changes, path: value}) for value in values)
            if arm.searched:
                yield f"search.set for {origin}", self.trial_settings(changes)

    def seeds_of(self, part: Arm | Ablation) -> tuple[int, ...]:
        """Seeds that an arm or ablation is trained with."""
        return self.seeds if part.seeds is None else part.seeds

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        check_names([part.name for part in (*self.arms, *self.ablations)])
        # The config of the best arm has this name.
        check_name(f"{self.name}_best")
        known: list[str] = []
        for arm in self.arms:
            if arm.like is not None and arm.like not in known:
                raise ValueError(
                    f"expected `like` of {arm.name!r} to name an arm before it ({', '.join(known) or 'none'}),"
                    f" got {arm.like!r}; move that one up or correct the name"
                )
            known.append(arm.name)
        if self.reference_arm is not None and self.reference_arm not in known:
            raise ValueError(
                f"expected reference_arm to name an arm ({', '.join(known)}), got {self.reference_arm!r};"
                " choose one of them"
            )
        return self

    @model_validator(mode="after")
    def _check_search(self) -> Self:
        searched = {path for arm in self.arms for path in arm.searched}
        if tested := sorted(path for path in {*searched, *self.search.set} if _of_test(path)):
            raise ValueError(
                f"expected no key of {TEST} in `space`, `grid` or search.set, got {', '.join(tested)}; trials are not"
                " tested, because test prompts choose nothing: give it in the base config"
            )
        twice = sorted(searched & set(self.search.set))
        if twice:
            raise ValueError(
                f"expected no searched value in search.set, got {', '.join(twice)}; trials would all have the same:"
                " remove it there or from the arms"
            )
        return self

    @model_validator(mode="after")
    def _check_budget(self) -> Self:
        check_prices(self.gpus, self.price)
        if self.budget is not None and self.budget.money is not None and self.price is None:
            raise ValueError(
                f"expected `price` with budget.money={self.budget.money:g}, got none; give the price of a GPU-hour, for"
                " example `price: 2.5` or `price: {H100: 2.5}`"
            )
        return self

    @model_validator(mode="after")
    def _check_seeds(self) -> Self:
        for part in (*self.arms, *self.ablations):
            seeds = self.seeds_of(part)
            if len(set(seeds)) != len(seeds):
                raise ValueError(f"expected seeds that differ for {part.name!r}, got {list(seeds)}; give each once")
            if not seeds and not (isinstance(part, Arm) and self.origin(part).searched):
                raise ValueError(
                    f"expected at least one seed for {part.name!r}, which no search trains, got none; give `seeds`"
                )
        return self
