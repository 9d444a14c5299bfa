"""Gate of a budget in Ray Tune: answers the requests of runs, and stops trials once the budget is spent."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune

from srpo_ray.runs.folder import RunFolder
from srpo_ray.runs.usage import used_seconds
from srpo_ray.search.admission import Request, decide, stops, too_small
from srpo_ray.search.budget_change import note_cut, note_over
from srpo_ray.search.budget_clock import note_seconds, phases_file, walls_file
from srpo_ray.search.budget_requests import POLL_S, read_decisions, read_request, write_decisions
from srpo_ray.search.budget_terms import BudgetTerms, parse_name
from srpo_ray.search.spending import Spending, spent_lines


class BudgetGate(tune.Callback, tune.Stopper):
    """Admits runs within the budget, and stops trials at a report after the budget is spent.

    A trial's process asks before it trains, because Ray Tune starts every trial whose turn it is, and has no way to
    hold one back.

    Args:
        folder: Folder of the experiment.
        terms: Its budget.
        phase: Name of the phase of Ray Tune.
    """

    def __init__(self, folder: Path, terms: BudgetTerms, phase: str) -> None:
        self._folder = folder
        self._spending = Spending(folder, terms)
        self._phase = phase
        self._names: dict[str, str] = {}
        self._began = time.monotonic()
        self._started: dict[str, float] = {}
        self._cut = set[str]()
        self._next = 0.0
        self._over = False

    @property
    def max_concurrent(self) -> int:
        """Runs at the same time that it assumes; `FollowCluster` sets it."""
        return self._spending.concurrency

    @max_concurrent.setter
    def max_concurrent(self, number: int) -> None:
        self._spending.concurrency = number

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Ray Tune again and again: answer the requests of runs."""
        self._names.update((trial.trial_id, str(trial)) for trial in trials)
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + POLL_S
        admitted = read_decisions(self._folder)
        going = [request for trial in trials if trial.status == "RUNNING" and (request := self._asked(str(trial)))]
        if going:
            note_seconds(phases_file(self._folder), self._phase, time.monotonic() - self._began)
        # A finished run only reports again what it has.
        running = [request for request in going if admitted.get(request.name) and not self._finished(request.name)]
        answered = len(admitted)
        for request in (request for request in going if request.name not in admitted):
            decision = decide(request, self._spending, running, admitted)
            if decision == "wait":
                break
            admitted[request.name] = decision == "start"
            running += [request] if decision == "start" else []
        if len(admitted) > answered:
            write_decisions(self._folder, admitted)
        for request in running:
            self._started.setdefault(request.name, time.monotonic())
        self._over = _is_over(trials, admitted)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Ray Tune when a trial has ended: note how long it took, and that it is over."""
        name = str(trial)
        if name in self._cut:
            note_cut(self._folder, name)
        elif read_decisions(self._folder).get(name):
            note_over(self._folder, name)
            if self._finished(name) and name in self._started:
                # A run that was interrupted has used more than what this start has seen.
                used = used_seconds(RunFolder(self._folder / "trials" / name))
                wall = max(used, time.monotonic() - self._started[name])
                note_seconds(walls_file(self._folder), name, wall)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Called by Ray Tune with each report of a trial: true stops it."""
        request = self._asked(self._names.get(trial_id, ""))
        if request is None or not stops(request, self._spending):
            return False
        self._cut.add(request.name)
        return True

    def stop_all(self) -> bool:
        """Called by Ray Tune again and again: true once a run was refused and none goes on; the rest is not started."""
        return self._over

    def _finished(self, name: str) -> bool:
        return RunFolder(self._folder / "trials" / name).finished.exists()

    def _asked(self, name: str) -> Request | None:
        return read_request(self._folder, name)


def _is_over(trials: Sequence[Any], admitted: Mapping[str, bool]) -> bool:
    """Test whether the search of one arm is over, because a trial was refused and no other goes on.

    A phase of several arms asks for each of its runs: one of another arm may cost less.
    """
    names = {parse_name(str(trial)) for trial in trials}
    if len(names) != 1 or not next(iter(names)).is_trial:
        return False
    going = [trial for trial in trials if trial.status == "RUNNING" and admitted.get(str(trial)) is not False]
    return not going and any(admitted.get(str(trial)) is False for trial in trials)


def require_measured_budget(folder: Path, terms: BudgetTerms, trials: list[str]) -> None:
    """Check that a search without an ended trial did not end because of the budget.

    Args:
        folder: Folder of the experiment.
        terms: Its budget.
        trials: Names of the search's trials.

    Raises:
        ValueError: If it did.
    """
    spending = Spending(folder, terms)
    spent = spending.amounts()
    requests = [request for name in trials if (request := read_request(folder, name))]
    needed = next((found for request in requests if (found := too_small(request, spending))), None)
    if needed:
        name, amount = next(iter(needed.items()))
        raise ValueError(
            f"budget.{name}: expected at least {amount:.3g} for one trial of each searched arm, as measured by the"
            f" first trial, got {terms.limits[name]:g}; raise it, or lower training.num_updates"
        )
    over = any(spent[name] >= most for name, most in terms.limits.items())
    if over or not all(read_decisions(folder).values()):
        raise ValueError(
            f"budget: expected enough for one trial to its end, got {', '.join(spent_lines(spent, terms.limits))} spent"
            " before any; raise it, or lower training.num_updates"
        )
