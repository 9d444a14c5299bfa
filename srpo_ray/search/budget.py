"""Budget of an experiment while it runs: admission of runs in Ray Tune, the clock, and records in MLflow."""

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune

from srpo_ray.config import ExperimentConfig, RunConfig, apply
from srpo_ray.config.base import folder_name
from srpo_ray.config.budget import gpu_models
from srpo_ray.config.experiment import Arm
from srpo_ray.config.pool_key import pool_key
from srpo_ray.evaluation.results import Arm as TrainedArm
from srpo_ray.evaluation.results import BudgetUse, Search
from srpo_ray.files import read_json, write_text
from srpo_ray.planning.prices import Prices
from srpo_ray.runs.folder import RunFolder
from srpo_ray.search.admission import Request, decide, stops, too_small
from srpo_ray.search.spending import (
    HOUR,
    BudgetTerms,
    FinalRun,
    Spending,
    clock_file,
    elapsed_s,
    parse_name,
    spent_lines,
    start_file,
)
from srpo_ray.tracking.runs import tracking_uri
from srpo_ray.tracking.tracker import Tracker

POLL_S = 0.5
"""Seconds between two looks at the requests of runs, and at the answer."""
TICK_S = 5.0
"""Seconds between two notes of the clock: most of what a killed experiment does not count."""
LOG_S = 30.0
"""Seconds between two records in MLflow."""


def plan_budget(config: ExperimentConfig, base: RunConfig) -> dict[str, float]:
    """Plan the hours of one update of each arm, and check that the budget is enough for the cheapest run.

    Args:
        config: The experiment.
        base: Config that its runs start from.

    Returns:
        Name of an arm -> hours of one update, with a run's share of everything else; empty without a budget, or without
        the GPU model of the trainers.

    Raises:
        ValueError: If the budget is smaller than one run.
    """
    models = gpu_models(config.gpus, config.price)
    if config.budget is None or models is None:
        return {}
    # Plans import the model stack, which an experiment without them does not need.
    from srpo_ray.planning.experiment_runs import check_budget, make_experiment_plan
    from srpo_ray.planning.hardware import Hardware

    plan = make_experiment_plan(config, base, Hardware(models.trainers), Prices.of(config))
    check_budget(plan)
    seeds = {group.arm: group.worst for group in plan.groups}
    return {arm: means.hours / means.updates for arm, means in seeds.items() if means.hours and means.updates}


def budget_terms(config: ExperimentConfig, base: RunConfig, planned: Mapping[str, float]) -> BudgetTerms | None:
    """Collect the terms of an experiment's budget; None without one.

    Args:
        config: The experiment.
        base: Config that its runs start from.
        planned: Name of an arm -> hours of one update by the plan.
    """
    if config.budget is None:
        return None
    searched = sorted((arm for arm in config.arms if arm.searched), key=lambda arm: bool(arm.space))
    runs = [apply(base, changes) for _, changes in (*config.trained_changes(), *config.trial_changes())]
    return BudgetTerms(
        limits=config.budget.limits,
        prices=Prices.of(config),
        reward_gpus=sum({pool_key(run): run.reward_gpus for run in runs}.values()),
        concurrency=config.concurrency,
        searched=[folder_name(arm.name) for arm in searched],
        grids=sum(bool(arm.grid) for arm in searched),
        finals=[*_final_runs(config, base)],
        planned={folder_name(name): hours for name, hours in planned.items()},
        ranges=any(run.training.elastic for run in runs),
    )


def _final_runs(config: ExperimentConfig, base: RunConfig) -> Iterator[FinalRun]:
    for part, (_, changes) in zip(config.parts, config.trained_changes(), strict=True):
        origin = config.origin(part if isinstance(part, Arm) else config.reference)
        run = apply(base, changes)
        for _ in config.seeds_of(part):
            yield FinalRun(folder_name(origin.name), run.training.num_updates, run.fewest_trainer_gpus)


def _decisions(folder: Path) -> Path:
    return folder / "budget" / "decisions.json"


def _request(folder: Path, name: str) -> Path:
    return folder / "budget" / "requests" / f"{name}.json"


def read_decisions(folder: Path) -> dict[str, bool]:
    """Names of the runs of an experiment that its budget has admitted (true) or refused (false)."""
    return read_json(_decisions(folder)) if _decisions(folder).exists() else {}


def is_asking(folder: Path, name: str) -> bool:
    """Test whether a run has asked the budget of its experiment for its start, with or without an answer."""
    return _request(folder, name).exists()


def is_admitted(folder: Path, terms: BudgetTerms | None, name: str) -> bool:
    """Test whether a run could start; false for one that the budget had no room for.

    Args:
        folder: Folder of the experiment.
        terms: Its budget; None admits every run.
        name: Name of the run.
    """
    return terms is None or read_decisions(folder).get(name, False)


def wait_for_admission(folder: Path, config: RunConfig) -> bool:
    """Ask for the start of a run, in its trial's process, and wait for the answer of `BudgetGate`.

    Args:
        folder: Folder of the experiment.
        config: The run.

    Returns:
        True if the run starts, false if the budget has no room for it.
    """
    request = {"updates": config.training.num_updates, "gpus": config.fewest_trainer_gpus}
    write_text(_request(folder, config.name), json.dumps(request) + "\n")
    while config.name not in (decisions := read_decisions(folder)):
        time.sleep(POLL_S)
    return decisions[config.name]


class BudgetGate(tune.Callback, tune.Stopper):
    """Admits runs within the budget, and stops trials at a report after the budget is spent.

    A trial's process asks before it trains, because Ray Tune starts every trial whose turn it is, and has no way to
    hold one back.

    Args:
        folder: Folder of the experiment.
        terms: Its budget.
    """

    def __init__(self, folder: Path, terms: BudgetTerms) -> None:
        self._folder = folder
        self._spending = Spending(folder, terms)
        self._names: dict[str, str] = {}
        self._began = time.monotonic()
        self._next = 0.0
        self._over = False

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Ray Tune again and again: answer the requests of runs."""
        self._names.update((trial.trial_id, str(trial)) for trial in trials)
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + POLL_S
        admitted = read_decisions(self._folder)
        going = [request for trial in trials if trial.status == "RUNNING" and (request := self._asked(str(trial)))]
        if going and not start_file(self._folder).exists():
            hours = (time.monotonic() - self._began) / HOUR
            write_text(start_file(self._folder), json.dumps({"hours": hours}) + "\n")
        running = [request for request in going if admitted.get(request.name)]
        answered = len(admitted)
        for request in (request for request in going if request.name not in admitted):
            decision = decide(request, self._spending, running, admitted)
            if decision == "wait":
                break
            admitted[request.name] = decision == "start"
            running += [request] if decision == "start" else []
        if len(admitted) > answered:
            write_text(_decisions(self._folder), json.dumps(admitted) + "\n")
        self._over = _is_over(trials, admitted)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Called by Ray Tune with each report of a trial: true stops it."""
        request = self._asked(self._names.get(trial_id, ""))
        return request is not None and stops(request, self._spending)

    def stop_all(self) -> bool:
        """Called by Ray Tune again and again: true once a run was refused and none goes on; the rest is not started."""
        return self._over

    def _asked(self, name: str) -> Request | None:
        file = _request(self._folder, name)
        if not name or not file.exists():
            return None
        values = read_json(file)
        return Request(name, values["updates"], values["gpus"])


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
    files = [(name, _request(folder, name)) for name in trials]
    requests = [Request(name, **read_json(file)) for name, file in files if file.exists()]
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


@contextmanager
def counting(folder: Path, terms: BudgetTerms | None, base: RunConfig, parent_run: str) -> Iterator[None]:
    """Count the wall-clock time of an experiment during the block, and log what is spent to MLflow.

    Args:
        folder: Folder of the experiment.
        terms: Its budget; None counts nothing.
        base: Config that its runs start from.
        parent_run: Id of its MLflow run.
    """
    if terms is None:
        yield
        return
    ended = threading.Event()
    spool = RunFolder(folder).tracker_spool
    tracker = Tracker(tracking_uri(base), parent_run, spool, base.tracking.flush_interval_s)
    _begin(folder)

    def count() -> None:
        spending, logged = Spending(folder, terms), 0.0
        while True:
            done = ended.wait(TICK_S)
            _tick(folder)
            if done or time.monotonic() - logged >= LOG_S:
                logged = time.monotonic()
                tracker.log_metrics(budget_metrics(spending), int(elapsed_s(folder)))
            if done:
                return

    thread = threading.Thread(target=count, name="budget", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        # The report's records continue the spool.
        tracker.abandon()


def note_search(folder: Path, terms: BudgetTerms) -> None:
    """Note what the search has spent, once it is over; a resumed experiment keeps the first note."""
    file = _search_note(folder)
    if not file.exists():
        write_text(file, json.dumps(Spending(folder, terms).amounts()) + "\n")


def budget_uses(folder: Path, terms: BudgetTerms) -> list[BudgetUse]:
    """Amounts that an experiment has spent of each limit, in its search and after it."""
    spent, file = Spending(folder, terms).amounts(), _search_note(folder)
    search = read_json(file) if file.exists() else spent
    return [
        BudgetUse(name, limit, search[name], max(0.0, spent[name] - search[name]))
        for name, limit in terms.limits.items()
    ]


def budget_notes(config: ExperimentConfig, searches: Sequence[Search], arms: Sequence[TrainedArm]) -> list[str]:
    """Notes for the reader on the runs that the budget had no room for."""
    if config.budget is None:
        return []
    trials = sum(arm.num_trials(config.search.num_samples) for arm in config.arms)
    finals = sum(len(config.seeds_of(part)) for part in config.parts)
    counts = [
        ("trials", trials - sum(len(search.rows) for search in searches), trials),
        ("runs after the search", finals - sum(len(arm.rows) for arm in arms), finals),
    ]
    return [f"The budget had no room for {left} of {number} {what}." for what, left, number in counts if left > 0]


def _search_note(folder: Path) -> Path:
    return folder / "budget" / "search.json"


def budget_metrics(spending: Spending) -> dict[str, float]:
    """Metrics of the budget: what is spent and left of each limit."""
    spent, limits = spending.amounts(), spending.terms.limits
    used = {f"budget/{name}_spent": amount for name, amount in spent.items()}
    return used | {f"budget/{name}_left": max(0.0, limits[name] - amount) for name, amount in spent.items()}


def _begin(folder: Path) -> None:
    """Start the clock, from what earlier starts have counted."""
    file = clock_file(folder)
    clock = read_json(file) if file.exists() else {"earlier_s": 0.0, "began": 0.0, "seen": 0.0}
    earlier, now = clock["earlier_s"] + clock["seen"] - clock["began"], time.time()
    write_text(file, json.dumps({"earlier_s": earlier, "began": now, "seen": now}) + "\n")


def _tick(folder: Path) -> None:
    clock = read_json(clock_file(folder))
    write_text(clock_file(folder), json.dumps({**clock, "seen": time.time()}) + "\n")
