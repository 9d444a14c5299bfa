"""An experiment: arms that are searched or given, each trained with several seeds, and ablations of one of them."""

import math
from collections.abc import Iterator, Mapping
from math import prod
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from srpo_ray.config.base import Name, Section, check_name, check_names
from srpo_ray.config.budget import BudgetConfig, GpuModels, Price, check_prices
from srpo_ray.config.changes import Changes, check_changes
from srpo_ray.config.conditions import allowed_values, conditions_first, example_trial
from srpo_ray.config.objective import VOTES, Objective
from srpo_ray.config.scheduler import UPDATES, Round, Rung
from srpo_ray.config.search import SearchConfig, SearchDimension
from srpo_ray.config.widening import check_widening

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


def _rounds(arm: Arm) -> list[tuple[str, dict[str, Any]]]:
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


class ExperimentConfig(Section):
    """An experiment file: a base config, arms that change it, and ablations of one arm.

    A hyper-parameter sweep is one arm with a `space`. A comparison of methods has several arms.
    """

    prefix: ClassVar[str] = "experiment."

    name: Name = "experiment"
    """Name of the experiment and of its folder under the base config's `run_root`."""
    base: str | tuple[str, ...]
    """Run config file or files that every run starts from: paths relative to the experiment file, or names of packaged
    configs (`configs/...`)."""
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
    """Metric that trials are chosen by and arms are compared by: a held-out score, never the training reward; or
    `votes`, for which the experiment waits until people have voted with `srpo-ray vote`."""
    votes_needed: int = Field(default=100, ge=1)
    """With `objective: votes`: votes to wait for before trials are chosen, and again before arms are compared; hidden
    repeats do not count."""
    mode: Literal["max", "min"] = "max"
    """Direction of a better objective."""
    objectives: dict[Objective, Literal["max", "min"]] = {}
    """Metric -> direction, for two or more metrics with `objective` among them: the report shows the Pareto front of
    the trials, those that no other trial beats in all of these metrics, and `optuna` searches for it. `objective`
    chooses the trial. Empty searches by `objective` alone and shows no front."""
    max_fall: dict[str, float] = {}
    """Metric -> largest fall below the baseline that a chosen trial, or the best arm, may have."""
    target_share: float = Field(default=0.5, gt=0, le=1)
    """Share of the reference arm's gain over the baseline that the cost of all arms is counted to."""
    equal_gain: tuple[str, ...] = ()
    """Metrics, for example truth/detail: the report compares the side effects of the arms at equal gain of each. Empty
    takes the objective."""
    max_concurrent_trials: Concurrency = 2
    """Runs at the same time: a number, or `auto` for as many as the cluster has room for beside the reward replicas,
    with the nodes that its autoscaler may add. A run counts with the fewest workers of a range."""
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

    def rung_settings(self, arm_changes: Mapping[str, Any], rung: Rung) -> dict[str, Any]:
        """Changes of an arm's trials in a rung to the base config.

        Args:
            arm_changes: Changes of the arm.
            rung: The rung.
        """
        return {**self.trial_settings(arm_changes), **rung.set, UPDATES: rung.updates}

    def trained_changes(self) -> list[tuple[str, dict[str, Any]]]:
        """Changes of each arm, without searched values, and each ablation, with their place in the file."""
        reference = self.changes(self.reference)
        arms = [
            (f"arm {arm.name!r}{place}", {**self.changes(arm), **values})
            for arm in self.arms
            for place, values in _rounds(arm)
        ]
        return arms + [(f"ablation {each.name!r}", {**reference, **each.set}) for each in self.ablations]

    def trial_changes(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Changes of example trials: each value of a list and the bounds of a range, with its place in the file."""
        for arm in self.arms:
            changes, origin = self.changes(arm), f"arm {arm.name!r}"
            for path, dimension in arm.space.items():
                examples = [example_trial(arm.space, path, value) for value in dimension.examples]
                yield from ((f"{origin}: space.{path}", {**changes, **values}) for values in examples)
            for path, values in arm.grid.items():
                yield from ((f"{origin}: grid.{path}", {**changes, path: value}) for value in values)
            if arm.searched:
                yield f"search.set for {origin}", self.trial_settings(changes)
            for number, rung in enumerate(self.search.scheduler.rungs if arm.space else (), 1):
                yield f"rung {number} for {origin}", self.rung_settings(changes, rung)

    @property
    def num_runs(self) -> int:
        """Number of runs of the whole experiment: trials of all searches, arms and ablations with every seed; without
        the values that `widen` may add."""
        trials = [self.search.num_samples for arm in self.arms if arm.space]
        trials += [math.prod(map(len, arm.grid.values())) for arm in self.arms if arm.grid]
        return sum(trials) + sum(len(self.seeds_of(part)) for part in (*self.arms, *self.ablations))

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
    def _check_objectives(self) -> Self:
        if not self.objectives:
            return self
        if self.objectives.get(self.objective) != self.mode or len(self.objectives) < 2:
            raise ValueError(
                f"expected two or more metrics in `objectives`, {self.objective}: {self.mode} among them because it"
                f" chooses the trial, got {self.objectives}; add what is missing, or remove `objectives`"
            )
        return self

    @model_validator(mode="after")
    def _check_conditions(self) -> Self:
        conditional = sorted({path for arm in self.arms for path, each in arm.space.items() if each.when})
        if conditional and self.search.scheduler.type == "pbt":
            raise ValueError(
                f"expected no `when` in a space that scheduler.type: pbt searches, got one of {', '.join(conditional)};"
                " a perturbed choice would leave values without their condition: remove `when`, or use promotion"
            )
        return self

    @model_validator(mode="after")
    def _check_points(self) -> Self:
        if self.search.points_from and not any(arm.space for arm in self.arms):
            raise ValueError(
                "expected an arm with a `space` for search.points_from, got none; earlier trials guide draws from a"
                " space only: give one, or remove points_from"
            )
        return self

    @model_validator(mode="after")
    def _check_search(self) -> Self:
        searched = {path for arm in self.arms for path in arm.searched}
        for_trials = {*self.search.set, *(path for rung in self.search.scheduler.rungs for path in rung.set)}
        if tested := sorted(path for path in {*searched, *for_trials} if _of_test(path)):
            raise ValueError(
                f"expected no key of {TEST} in `space`, `grid` or search.set, got {', '.join(tested)}; trials are not"
                " tested, because test prompts choose nothing: give it in the base config"
            )
        twice = sorted(searched & for_trials)
        if twice:
            place = "search.set or `set` of a rung" if self.search.scheduler.rungs else "search.set"
            raise ValueError(
                f"expected no searched value in {place}, got {', '.join(twice)}; trials"
                " would all have the same: remove it there or from the arms"
            )
        return self

    @model_validator(mode="after")
    def _check_votes(self) -> Self:
        if self.objective != VOTES:
            return self
        drawn = any(arm.space for arm in self.arms)
        if drawn and self.search.scheduler.type == "asha":
            raise ValueError(
                "expected search.scheduler.type none, promotion or pbt with objective votes, got 'asha', which compares"
                " trials while they train, when nobody can vote on them; choose one of the others"
            )
        if drawn and self.search.searcher != "random":
            raise ValueError(
                f"expected search.searcher random with objective votes, got {self.search.searcher!r}, which learns from"
                " each trial as soon as it ends, before people have voted; set it to random"
            )
        widened = [arm.name for arm in self.arms if arm.widen]
        if widened:
            raise ValueError(
                f"expected no `widen` with objective votes, got it in arm {widened[0]!r}; people vote once all trials"
                " have ended, so no value can be added before: remove `widen`"
            )
        if self.mode != "max":
            raise ValueError("expected mode max with objective votes, got min; more votes are better: remove mode")
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
