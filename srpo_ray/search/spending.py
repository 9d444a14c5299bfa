"""Spending of an experiment, read from its folder: hours, GPU-hours and money, and the cost of an update."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from srpo_ray.config.budget import Limit
from srpo_ray.files import read_json
from srpo_ray.planning.prices import Cost, Prices, run_cost
from srpo_ray.runs.folder import RunFolder, read_rows
from srpo_ray.runs.usage import used_gpu_seconds, used_seconds

HOUR = 3600
STALE_S = 60.0
"""Seconds after the last note of the clock from which on the experiment does not run."""
_RUN = re.compile(r"(?P<arm>.+)_(?P<kind>trial|seed)_[^_]+")


class RunName(NamedTuple):
    """Arm and kind of a run, which its name begins and ends with."""

    arm: str
    is_trial: bool


def parse_name(name: str) -> RunName:
    """Read the arm and the kind from a run's name, such as `SRPO_trial_3` or `SRPO_seed_1`."""
    match = _RUN.fullmatch(name)
    return RunName(match["arm"], match["kind"] == "trial") if match else RunName(name, is_trial=True)


class FinalRun(NamedTuple):
    """Run of an arm or ablation that follows the search."""

    arm: str
    """Name of the folder of the arm whose search finds its values."""
    updates: int
    gpus: float
    """GPUs that its trainers reserve."""


@dataclass(frozen=True)
class BudgetTerms:
    """Budget of an experiment, and what its runs will reserve."""

    limits: Mapping[Limit, float]
    prices: Prices | None
    reward_gpus: float
    """GPUs that all reward pools reserve while the experiment runs."""
    concurrency: int
    """Runs at the same time."""
    searched: Sequence[str] = ()
    """Folder names of the searched arms in the order of their searches."""
    grids: int = 0
    """Number of the first of them that share one phase."""
    finals: Sequence[FinalRun] = ()
    planned: Mapping[str, float] = field(default_factory=dict[str, float])
    """Folder name of an arm -> hours of one update by the plan; used until a run is measured."""
    ranges: bool = False
    """True if runs may have several numbers of workers."""

    def share(self, arm: str) -> float:
        """Share of the search's part that may be spent when the search of an arm ends.

        Searches follow one another. Each has an equal share, and what one leaves is for the next ones.
        """
        if arm not in self.searched:
            return 1.0
        place = self.searched.index(arm) + 1
        return max(place, self.grids if place <= self.grids else 0) / len(self.searched)


@dataclass(frozen=True)
class RunUse:
    """Usage of one run until now."""

    name: str
    seconds: float
    gpu_seconds: float
    updates: int
    """Updates made."""
    ended: bool
    """True if the run has made its last update, or reward-hacking detection has stopped it."""


class Spending:
    """Reader of what an experiment has spent.

    Args:
        folder: Folder of the experiment.
        terms: Its budget.
    """

    def __init__(self, folder: Path, terms: BudgetTerms) -> None:
        self.folder = folder
        self.terms = terms
        self._known: dict[str, RunUse] = {}

    def runs(self) -> list[RunUse]:
        """Usage of every run that has started; that of an ended run is read once."""
        for path in sorted(self.folder.glob("trials/*/usage.json")):
            name = path.parent.name
            if name not in self._known or not self._known[name].ended:
                self._known[name] = _run_use(RunFolder(path.parent))
        return [*self._known.values()]

    def cost(self) -> Cost:
        """Cost of the experiment until now."""
        hours = elapsed_s(self.folder) / HOUR
        trainers = sum(run.gpu_seconds for run in self.runs()) / HOUR
        return Cost(hours, trainers, hours * self.terms.reward_gpus)

    def amounts(self) -> dict[Limit, float]:
        """Spent amount of each limit of the budget."""
        amounts = self.cost().amounts(self.terms.prices)
        return {name: amounts[name] for name in self.terms.limits}

    def hours_per_update(self, arm: str) -> float | None:
        """Mean hours of one update, with a run's share of everything else.

        Measured on the ended runs of the arm, else on its runs that have made updates, else on runs of other arms, else
        planned; None without any.
        """
        runs = [run for run in self.runs() if run.updates]
        own = [run for run in runs if parse_name(run.name).arm == arm]
        for group in ([run for run in own if run.ended], own, [run for run in runs if run.ended]):
            if group:
                return sum(run.seconds for run in group) / HOUR / sum(run.updates for run in group)
        if arm in self.terms.planned:
            return self.terms.planned[arm]
        return sum(run.seconds for run in runs) / HOUR / sum(run.updates for run in runs) if runs else None

    def mean_gpus(self, arm: str, gpus: float) -> float:
        """Mean GPUs of a run of an arm over its time.

        Measured on the runs of the arm if their number of workers is a range; a fixed number reserves the same always.

        Args:
            arm: Folder name of the arm.
            gpus: GPUs of a run with a fixed number of workers, or with the fewest.
        """
        runs = [run for run in self.runs() if run.seconds and parse_name(run.name).arm == arm]
        if not self.terms.ranges or not runs:
            return gpus
        return sum(run.gpu_seconds for run in runs) / sum(run.seconds for run in runs)

    def cost_of(self, hours: float, gpus: float) -> dict[Limit, float]:
        """Amounts that a run of some hours on some GPUs costs, with its share of the reward pools."""
        amounts = run_cost(hours, gpus, self.terms.reward_gpus, self.terms.concurrency).amounts(self.terms.prices)
        return {name: amounts[name] for name in self.terms.limits}

    def reserve(self) -> dict[Limit, float]:
        """Amounts that the search leaves for the runs after it: their expected cost, but at most half the budget.

        As many runs as fit start together, and wait for the longest of them. Their processes start as long as those of
        the search did.
        """
        if not self.terms.finals:
            return dict.fromkeys(self.terms.limits, 0.0)
        hours = [(self.hours_per_update(run.arm) or 0.0) * run.updates for run in self.terms.finals]
        costs = [
            self.cost_of(each, self.mean_gpus(run.arm, run.gpus))
            for each, run in zip(hours, self.terms.finals, strict=True)
        ]
        rounds = sum(sorted(hours, reverse=True)[:: self.terms.concurrency])
        start = start_hours(self.folder)
        begun = Cost(start, 0.0, start * self.terms.reward_gpus).amounts(self.terms.prices)
        total: dict[Limit, float] = {
            name: begun[name] + (rounds if name == "hours" else sum(cost[name] for cost in costs))
            for name in self.terms.limits
        }
        return {name: min(amount, self.terms.limits[name] / 2) for name, amount in total.items()}


def _run_use(folder: RunFolder) -> RunUse:
    rows, ended = read_rows(folder.updates), folder.finished.exists()
    updates = int(rows[-1]["update"]) if rows else 0
    return RunUse(folder.path.name, used_seconds(folder), used_gpu_seconds(folder), updates, ended)


def clock_file(folder: Path) -> Path:
    """File of the wall-clock time of an experiment's starts."""
    return folder / "budget" / "clock.json"


def start_file(folder: Path) -> Path:
    """File of the wall-clock hours from the start of an experiment's first phase to the first request of a run."""
    return folder / "budget" / "start.json"


def start_hours(folder: Path) -> float:
    """Wall-clock hours that the processes of the first phase needed to start; 0 until it is known."""
    return read_json(start_file(folder))["hours"] if start_file(folder).exists() else 0.0


def elapsed_s(folder: Path) -> float:
    """Wall-clock seconds of an experiment over all its starts; 0 before the first."""
    if not clock_file(folder).exists():
        return 0.0
    clock: dict[str, float] = read_json(clock_file(folder))
    now = time.time()
    # An experiment that is over or was killed notes the clock no more.
    until = now if now - clock["seen"] < STALE_S else clock["seen"]
    return clock["earlier_s"] + until - clock["began"]


def budget_line(spending: Spending) -> str:
    """Format what is spent and left of the budget in one line."""
    spent, limits = spending.amounts(), spending.terms.limits
    left = ", ".join(f"{max(0.0, limit - spent[name]):.3g}" for name, limit in limits.items())
    return f"{', '.join(spent_lines(spent, limits))} spent; left: {left}"


def spent_lines(spent: Mapping[Limit, float], limits: Mapping[Limit, float]) -> Iterator[str]:
    """Format what is spent of each limit."""
    units: dict[Limit, str] = {"gpu_hours": "GPU-hours", "hours": "hours", "money": "in money"}
    for name, limit in limits.items():
        yield f"{spent[name]:.3g} of {limit:g} {units[name]}"
