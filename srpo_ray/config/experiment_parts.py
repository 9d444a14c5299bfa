"""Parts of an experiment: arms that are searched or given, each trained with several seeds, and ablations of one."""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from srpo_ray.config.arm import Ablation, Arm, rounds_of
from srpo_ray.config.base import Name, Section
from srpo_ray.config.budget import BudgetConfig, GpuModels, Price
from srpo_ray.config.conditions import example_trial
from srpo_ray.config.objective import Objective
from srpo_ray.config.scheduler import UPDATES, Rung
from srpo_ray.config.search import SearchConfig

TEST = "evaluation.test"
"""Config path of the test prompts."""


def of_test(path: str) -> bool:
    """Test whether a config path is in the section of the test prompts."""
    return path == TEST or path.startswith(f"{TEST}.")


def _concurrency_kind(value: object) -> str:
    return "auto" if isinstance(value, str) else "number"


Concurrency = Annotated[
    Annotated[Literal["auto"], Tag("auto")] | Annotated[Annotated[int, Field(ge=1)], Tag("number")],
    Discriminator(_concurrency_kind),
]
"""Runs at the same time: an int of at least 1, or `auto`."""


class ExperimentParts(Section):
    """Parts of an experiment file, and values derived from them."""

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
    repeats do not count. With promotion or `pbt`, it waits for as many after every rung or round too. The hours of a
    `budget` go on while it waits, and so do the GPU-hours of the reward pool."""
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
        changes = {path: value for path, value in arm_changes.items() if not of_test(path)}
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
            for place, values in rounds_of(arm)
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
