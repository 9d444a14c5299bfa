"""Spending of an experiment, read from its folder: hours, GPU-hours and money, and the cost of an update."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from srpo_ray.config.budget import Limit
from srpo_ray.files import read_json_or
from srpo_ray.planning.prices import Cost, run_cost
from srpo_ray.planning.starts import RUN_S
from srpo_ray.runs.folder import RunFolder, read_rows
from srpo_ray.runs.start_from import started_at
from srpo_ray.runs.usage import used_gpu_seconds, used_seconds
from srpo_ray.search.budget_clock import HOUR, elapsed_s, longest_phase_hours, phase_hours, walls_file
from srpo_ray.search.budget_terms import BudgetTerms, RunName, parse_name


@dataclass(frozen=True)
class RunUse:
    """Usage of one run until now."""

    name: str
    seconds: float
    gpu_seconds: float
    updates: int
    """Updates that it has made itself, without those of the run that it continues."""
    ended: bool
    """True if the run has made its last update, or reward-hacking detection has stopped it."""
    evaluation_s: float
    """Mean seconds of its evaluations; 0 before the first."""

    @property
    def is_measured(self) -> bool:
        """True if its updates tell what one costs. After the first one, a run still evaluates the base model."""
        return self.updates > (0 if self.ended else 1)


class Spending:
    """Reader of what an experiment has spent.

    Args:
        folder: Folder of the experiment.
        terms: Its budget.
    """

    def __init__(self, folder: Path, terms: BudgetTerms) -> None:
        self.folder = folder
        self.terms = terms
        self.concurrency = terms.concurrency
        """Runs at the same time, which may follow the cluster."""
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

    def hours_per_update(self, arm: str, rung: int = 0) -> float | None:
        """Mean hours of one update, with a run's share of everything else.

        Measured on the ended runs of the arm in the rung, else on those that have made two updates, else on its other
        rungs (corrected by the plan's ratio of the two), else on runs of other arms, else planned; None without any.

        Args:
            arm: Folder name of the arm.
            rung: Number of the rung; 0 for runs of no rung.
        """
        runs = [run for run in self.runs() if run.is_measured]
        own = [run for run in runs if parse_name(run.name).arm == arm]
        here = [run for run in own if parse_name(run.name).rung == rung]
        for group in ([run for run in here if run.ended], here):
            if group:
                return _mean_hours(group)
        if own:
            # The last rung has the settings of a whole trial.
            other = max(own, key=lambda run: (run.ended, parse_name(run.name).rung)).name
            group = [run for run in own if parse_name(run.name).rung == parse_name(other).rung]
            return _mean_hours(group) * self._planned_ratio(arm, rung, parse_name(other).rung)
        if ended := [run for run in runs if run.ended]:
            return _mean_hours(ended)
        if (planned := self._planned(arm, rung)) is not None:
            return planned
        return _mean_hours(runs) if runs else None

    def run_hours(self, name: RunName, updates: int) -> float:
        """Expected hours of a run's training; 0 as long as no update of any run is measured or planned.

        Args:
            name: Its name.
            updates: Updates that it makes itself.
        """
        return (self.hours_per_update(name.arm, name.rung) or 0.0) * updates

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
        amounts = run_cost(hours, gpus, self.terms.reward_gpus, self.concurrency).amounts(self.terms.prices)
        return {name: amounts[name] for name in self.terms.limits}

    def start_hours(self) -> float:
        """Mean wall-clock hours that a run takes beside its training; an allowance until one is measured."""
        walls = read_json_or(walls_file(self.folder), {})
        beside = [walls[run.name] - run.seconds for run in self.runs() if run.ended and run.name in walls]
        return max(0.0, fmean(beside or [RUN_S])) / HOUR

    def runs_cost(
        self, hours: Sequence[float], gpus: Sequence[float], phases: int = 1, phase: float | None = None
    ) -> dict[Limit, float]:
        """Amounts that runs which start together cost, as many at a time as may, with the starts of their processes.

        Args:
            hours: Expected hours of training of each run.
            gpus: GPUs that the trainers of each reserve.
            phases: Phases of Ray Tune that they take.
            phase: Hours of the start of a phase; None takes the mean of the measured ones.
        """
        if not hours:
            return dict.fromkeys(self.terms.limits, 0.0)
        starts = self.start_hours()
        # The longest first: as many as fit start together, and wait for the longest of them.
        turns = sorted(hours, reverse=True)[:: self.concurrency]
        begin = phase_hours(self.folder) if phase is None else phase
        wall = sum(turns) + phases * (begin + len(turns) * starts)
        trainers = sum(each * held for each, held in zip(hours, gpus, strict=True))
        amounts = Cost(wall, trainers, wall * self.terms.reward_gpus).amounts(self.terms.prices)
        return {name: amounts[name] for name in self.terms.limits}

    def reserve(self) -> dict[Limit, float]:
        """Amounts that the search leaves for the runs after it: their expected cost, but at most half the budget."""
        finals = self.terms.finals
        hours = [self.run_hours(RunName(run.arm, False), run.updates) + self.test_hours(run.tests) for run in finals]
        rounds, phase = max((run.rounds for run in finals), default=1), longest_phase_hours(self.folder)
        total = self.runs_cost(hours, [self.mean_gpus(run.arm, run.gpus) for run in finals], rounds, phase)
        return {name: min(amount, self.terms.limits[name] / 2) for name, amount in total.items()}

    def test_hours(self, evaluations: float) -> float:
        """Hours of a run's tests, which no trial has; 0 until an evaluation is measured.

        Args:
            evaluations: Their duration in evaluations on validation prompts.
        """
        measured = [run.evaluation_s for run in self.runs() if run.evaluation_s]
        return evaluations * fmean(measured) / HOUR if measured else 0.0

    def _planned(self, arm: str, rung: int) -> float | None:
        return self.terms.planned.get(f"{arm}_rung_{rung}" if rung else arm)

    def _planned_ratio(self, arm: str, wanted: int, measured: int) -> float:
        numerator, denominator = self._planned(arm, wanted), self._planned(arm, measured)
        return numerator / denominator if numerator and denominator else 1.0


def _mean_hours(runs: Sequence[RunUse]) -> float:
    return sum(run.seconds for run in runs) / HOUR / sum(run.updates for run in runs)


def _run_use(folder: RunFolder) -> RunUse:
    rows, ended, began = read_rows(folder.updates), folder.finished.exists(), started_at(folder)
    updates = max(0, int(rows[-1]["update"]) - began) if rows else 0
    # Evaluations of the run that it continues are copied.
    seconds = [row["time/evaluate"] for row in read_rows(folder.evaluations) if "time/evaluate" in row]
    return RunUse(
        folder.path.name,
        used_seconds(folder),
        used_gpu_seconds(folder),
        updates,
        ended,
        fmean(seconds) if seconds else 0.0,
    )


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
