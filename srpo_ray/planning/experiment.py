"""Plan of an experiment: runs, updates, GPU-hours, wall-clock time and money, with and without early stopping."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any, Literal

from srpo_ray.config.budget import Limit
from srpo_ray.planning.hardware import Hardware
from srpo_ray.planning.prices import Cost, Prices, run_cost
from srpo_ray.planning.starts import start_hours

Case = Literal["expected", "worst"]
"""`expected`: early stopping as assumed, and the mean over example trials; `worst`: no trial is stopped, all trials
of a space have its most expensive values, and every grid is widened by all that it may."""

SEEDS = "seeds"
"""Beginning of the names of phases after the search."""


@dataclass(frozen=True)
class Means:
    """Means over the runs of a group."""

    updates: float
    calls: float
    """Velocity evaluations of one image by the updates, those with gradient counted three times."""
    hours: float | None
    """Hours of the run without its start; None if they cannot be planned."""


@dataclass(frozen=True)
class RunGroup:
    """Runs of an experiment that are planned together: the trials of a search, or the seeds of an arm or ablation."""

    name: str
    arm: str
    """Name of the arm or ablation."""
    phase: str
    """Runs of a phase do not wait for each other. Phases follow one another."""
    runs: int
    expected: Means
    worst: Means
    longest_hours: float | None
    """Hours of the longest run to its end."""
    shortest_hours: float | None
    """Hours of the shortest run to its end."""
    trainer_gpus: float
    """Most GPUs that the trainers of one run reserve."""
    peak: int
    """Bytes of the fullest GPU of the largest run."""
    fits: bool | None
    """True if the largest run fits. None if the memory of a GPU is not given."""
    largest: str
    """Values of the largest run, as far as they change the plan; empty if all runs are alike."""
    rung: int = 0
    """Number of the rung of a promotion, from 1; 0 for others."""
    is_part: bool = False
    """True for a rung or a round of a population: a run of it continues one of the part before."""
    most_runs: int | None = None
    """Runs in the worst case; None if they are as many as expected."""
    in_turns: bool = False
    """True if each run of the group is in a phase of its own, with one of every other group of this kind."""

    def count(self, case: Case) -> int:
        """Number of runs."""
        return self.runs if case == "expected" or self.most_runs is None else self.most_runs


@dataclass(frozen=True)
class ExperimentPlan:
    """Plan of all runs of an experiment."""

    name: str
    groups: tuple[RunGroup, ...]
    reward_gpus: float
    """GPUs that the replicas of all reward pools reserve from the start to the end."""
    reward_gpus_apart: float
    """Those of them on nodes of their own."""
    concurrency: int
    """Runs at the same time."""
    gpus: float
    """GPUs of the cluster without reward nodes, or those that the concurrent runs and their reward replicas need."""
    prices: Prices | None
    hardware: Hardware
    limits: dict[Limit, float]
    """Budget of the experiment; empty without one."""
    notes: tuple[str, ...]
    """Parts of the experiment that the plan does not count, and its assumptions."""
    grown: "ExperimentPlan | None" = None
    """The same experiment if runs with a range of workers have the most that there is room for all the time; None
    without a range."""

    @property
    def runs(self) -> int:
        """Number of all runs that are expected."""
        return self.count("expected")

    def count(self, case: Case) -> int:
        """Number of all runs."""
        return sum(group.count(case) for group in self.groups)

    @property
    def peak(self) -> int:
        """Peak bytes of the fullest GPU of the largest run."""
        return max(group.peak for group in self.groups)

    @property
    def fits(self) -> bool | None:
        """True if the largest run fits every GPU. None if the memory of a GPU is not given."""
        known = [group.fits for group in self.groups]
        return None if None in known else all(known)

    def updates(self, case: Case) -> float:
        """Updates of all runs."""
        return sum(group.count(case) * _means(group, case).updates for group in self.groups)

    def calls(self, case: Case) -> float:
        """Velocity evaluations of all runs."""
        return sum(group.count(case) * _means(group, case).calls for group in self.groups)

    def cost(self, case: Case) -> Cost | None:
        """Cost of the whole experiment, without starts; None if a run cannot be timed."""
        hours = {group.name: _means(group, case).hours for group in self.groups}
        if None in hours.values():
            return None
        trainers = sum(group.count(case) * (hours[group.name] or 0.0) * group.trainer_gpus for group in self.groups)
        wall = sum(phase_hours(groups, case, self.concurrency) for groups in self._phases(case))
        return Cost(wall, trainers, wall * self.reward_gpus)

    def starts(self, case: Case) -> Cost:
        """Allowance for the starts of phases and runs, which wait for each other while reward replicas are reserved."""
        phases = [*self._phases(case)]
        turns = sum(-(-sum(group.runs for group in groups) // self.concurrency) for groups in phases)
        hours = start_hours(len(phases), turns)
        return Cost(hours, 0.0, hours * self.reward_gpus)

    def _phases(self, case: Case) -> Iterator[list[RunGroup]]:
        """Groups of each phase, with the runs of a case."""
        for _, groups in groupby(self.groups, key=lambda group: group.phase):
            own = [replace(group, runs=group.count(case), most_runs=None) for group in groups if group.count(case)]
            if own and own[0].in_turns:
                most = max(group.runs for group in own)
                yield from ([replace(group, runs=1) for group in own if group.runs > turn] for turn in range(most))
            elif own:
                yield own

    @property
    def least_cost(self) -> Cost | None:
        """Cost of the least that is of use; None if a run cannot be timed.

        With a search in parts that is one trial of each such search through all parts, and the runs after the search.
        Otherwise it is the shortest trial of a search to its end, or without a search the shortest run.
        """
        if any(group.shortest_hours is None for group in self.groups):
            return None
        if any(group.is_part for group in self.groups):
            return self._least_search
        planned = [group for group in self.groups if group.runs]
        trials = [group for group in planned if not group.phase.startswith(SEEDS)]
        shortest = min(trials or planned, key=lambda group: (group.shortest_hours or 0.0) * (group.trainer_gpus or 1.0))
        # A budget that pays for no more has no other run to share the reward pool with.
        return run_cost(shortest.shortest_hours or 0.0, shortest.trainer_gpus, self.reward_gpus, 1)

    @property
    def _least_search(self) -> Cost:
        parts = [replace(group, runs=1) for group in self.groups if group.is_part]
        phases = [[part] for part in parts]
        finals = [group for group in self.groups if group.phase.startswith(SEEDS)]
        phases += [[*groups] for _, groups in groupby(finals, key=lambda group: group.phase)]
        least = [[replace(group, expected=_shortest(group)) for group in groups] for groups in phases]
        trainers = sum(
            group.runs * (group.shortest_hours or 0.0) * group.trainer_gpus for each in phases for group in each
        )
        wall = sum(phase_hours(groups, "expected", self.concurrency) for groups in least)
        return Cost(wall, trainers, wall * self.reward_gpus)

    def to_json(self) -> dict[str, Any]:
        """Convert all figures and their sums to plain values."""
        cases: tuple[Case, ...] = ("expected", "worst")
        totals = {case: self._totals(case) for case in cases}
        own = {"runs": self.runs, "most_runs": self.count("worst"), "peak": self.peak, "fits": self.fits, **totals}
        return {**asdict(replace(self, grown=None)), **own, "grown": self.grown.to_json() if self.grown else None}

    def _totals(self, case: Case) -> dict[str, Any]:
        cost = self.cost(case)
        spent = {**asdict(cost), "money": cost.money(self.prices)} if cost else {}
        return {"updates": self.updates(case), "calls": self.calls(case), **spent}


def _shortest(group: RunGroup) -> Means:
    return Means(group.expected.updates, group.expected.calls, group.shortest_hours)


def _means(group: RunGroup, case: Case) -> Means:
    return group.expected if case == "expected" else group.worst


def phase_hours(groups: Sequence[RunGroup], case: Case, concurrency: int) -> float:
    """Compute the wall-clock hours of a phase, from its groups that can be timed.

    Equal runs take turns: 5 runs, 2 at a time, take the hours of 3. Unequal runs fill the gaps: they take their sum
    over the concurrent runs, and at least the longest run.

    Args:
        groups: Groups of the phase.
        case: Case to plan.
        concurrency: Runs at the same time.
    """
    number = sum(group.runs for group in groups)
    each = [(group.runs, _means(group, case).hours or 0.0) for group in groups]
    longest = max(group.longest_hours or 0.0 for group in groups)
    if all(hours == longest for _, hours in each):
        return -(-number // concurrency) * longest
    return max(sum(runs * hours for runs, hours in each) / min(concurrency, number), longest)
