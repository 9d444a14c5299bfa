"""Records of a budget: its clock while the experiment runs, metrics in MLflow, and figures of the report."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from srpo_ray.config import ExperimentConfig, RunConfig
from srpo_ray.evaluation.results import Arm as TrainedArm
from srpo_ray.evaluation.results import BudgetUse, Search
from srpo_ray.files import read_json_or, write_text
from srpo_ray.runs.folder import RunFolder
from srpo_ray.search.budget_change import search_note
from srpo_ray.search.budget_clock import begin, elapsed_s, tick
from srpo_ray.search.budget_terms import BudgetTerms
from srpo_ray.search.spending import Spending
from srpo_ray.tracking.runs import tracking_uri
from srpo_ray.tracking.tracker import Tracker

TICK_S = 5.0
"""Seconds between two notes of the clock: most of what a killed experiment does not count."""
LOG_S = 30.0
"""Seconds between two records in MLflow."""


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
    begin(folder)

    def count() -> None:
        spending, logged = Spending(folder, terms), 0.0
        while True:
            done = ended.wait(TICK_S)
            tick(folder)
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
    file = search_note(folder)
    if not file.exists():
        write_text(file, json.dumps(Spending(folder, terms).amounts()) + "\n")


def budget_uses(folder: Path, terms: BudgetTerms) -> list[BudgetUse]:
    """Amounts that an experiment has spent of each limit, in its search and after it."""
    spent = Spending(folder, terms).amounts()
    # A changed budget may have limits that the note of an earlier one lacks.
    search = {**spent, **read_json_or(search_note(folder), {})}
    return [
        BudgetUse(name, limit, search[name], max(0.0, spent[name] - search[name]))
        for name, limit in terms.limits.items()
    ]


def budget_notes(config: ExperimentConfig, searches: Sequence[Search], arms: Sequence[TrainedArm]) -> list[str]:
    """Notes for the reader on the runs that the budget had no room for."""
    if config.budget is None:
        return []
    trials = sum(arm.num_trials(config.search.num_samples) for arm in config.arms)
    trials += sum(search.num_added for search in searches)
    finals = sum(len(config.seeds_of(part)) for part in config.parts)
    counts = [
        ("trials", trials - sum(len(search.rows) for search in searches), trials),
        ("runs after the search", finals - sum(len(arm.rows) for arm in arms), finals),
    ]
    notes = [f"The budget had no room for {left} of {number} {what}." for what, left, number in counts if left > 0]
    return notes + [note for search in searches for note in _part_notes(search)]


def _part_notes(search: Search) -> Iterator[str]:
    """Note on the later rungs or rounds of a search, if the budget had no room for them."""
    done = len(search.rungs) or len(search.rounds)
    whole = search.num_parts
    if done < whole and next(row for row in search.rows if row.name == search.chosen).ended:
        what = "rung" if search.rungs else "round"
        yield (
            f"{search.arm}: the budget had no room for the search after {what} {done} of {whole}; it chose the best"
            f" trial of that {what}."
        )


def budget_metrics(spending: Spending) -> dict[str, float]:
    """Metrics of the budget: what is spent and left of each limit."""
    spent, limits = spending.amounts(), spending.terms.limits
    used = {f"budget/{name}_spent": amount for name, amount in spent.items()}
    return used | {f"budget/{name}_left": max(0.0, limits[name] - amount) for name, amount in spent.items()}
