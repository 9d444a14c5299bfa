"""Requests of runs for their start, and the answers of the budget, as files of the experiment."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from srpo_ray.config import RunConfig
from srpo_ray.files import read_json_or, write_text
from srpo_ray.runs.folder import RunFolder, read_rows
from srpo_ray.runs.start_from import started_at
from srpo_ray.search.admission import Request, num_covered
from srpo_ray.search.budget_terms import BudgetTerms, tests_of
from srpo_ray.search.spending import Spending

POLL_S = 0.5
"""Seconds between two looks at the requests of runs, and at the answer."""


def _decisions(folder: Path) -> Path:
    return folder / "budget" / "decisions.json"


def _request(folder: Path, name: str) -> Path:
    return folder / "budget" / "requests" / f"{name}.json"


def read_decisions(folder: Path) -> dict[str, bool]:
    """Names of the runs of an experiment that its budget has admitted (true) or refused (false)."""
    return read_json_or(_decisions(folder), {})


def write_decisions(folder: Path, decisions: Mapping[str, bool]) -> None:
    """Replace the decisions."""
    write_text(_decisions(folder), json.dumps({**decisions}) + "\n")


def read_request(folder: Path, name: str) -> Request | None:
    """Request of a run; None if it has not asked."""
    values = read_json_or(_request(folder, name), None) if name else None
    return None if values is None else Request(name, **values)


def withdraw(folder: Path, name: str) -> None:
    """Remove the request of a run, which asks again when it starts."""
    _request(folder, name).unlink(missing_ok=True)


def is_asking(folder: Path, name: str) -> bool:
    """Test whether a run has asked the budget of its experiment for its start, with or without an answer."""
    return _request(folder, name).exists()


def is_admitted(folder: Path, terms: BudgetTerms | None, name: str) -> bool:
    """Test whether a run could start; false for one that the budget had no room for.

    A run with an evaluation under an earlier budget has started, even if a lower one refuses its rest.

    Args:
        folder: Folder of the experiment.
        terms: Its budget; None admits every run.
        name: Name of the run.
    """
    if terms is None or read_decisions(folder).get(name, False):
        return True
    return RunFolder(folder / "trials" / name).evaluations.exists()


def request_of(folder: Path, config: RunConfig) -> Request:
    """Request of a run: a run that continues another costs its own updates only.

    Args:
        folder: Folder of the experiment.
        config: The run.
    """
    earlier = started_at(RunFolder(folder / "trials" / config.name))
    if not earlier and config.start_from is not None:
        rows = read_rows(RunFolder(config.start_from).updates)
        earlier = int(rows[-1]["update"]) if rows else 0
    return Request(config.name, config.training.num_updates - earlier, config.fewest_trainer_gpus, tests_of(config))


def wait_for_admission(folder: Path, config: RunConfig) -> bool:
    """Ask for the start of a run, in its trial's process, and wait for the answer of `BudgetGate`.

    Args:
        folder: Folder of the experiment.
        config: The run.

    Returns:
        True if the run starts, false if the budget has no room for it.
    """
    request = request_of(folder, config)
    values = {"updates": request.updates, "gpus": request.gpus, "tests": request.tests}
    write_text(_request(folder, config.name), json.dumps(values) + "\n")
    while config.name not in (decisions := read_decisions(folder)):
        time.sleep(POLL_S)
    return decisions[config.name]


def admit_part(folder: Path, terms: BudgetTerms, runs: Sequence[RunConfig], *, all_or_none: bool) -> set[str]:
    """Decide before a later rung or round begins how many of its runs the budget covers, and note the decisions.

    Runs of a round start in any case then. Those of a rung still ask for their start, because it may take longer than
    expected. A part that was begun is trained as it was.

    Args:
        folder: Folder of the experiment.
        terms: Its budget.
        runs: Runs of the part, the most important first.
        all_or_none: True if the part is not trained without each of its runs.

    Returns:
        Names of the runs that start.
    """
    decisions = read_decisions(folder)
    # Those that were admitted before are trained in any case.
    requests = sorted((request_of(folder, run) for run in runs), key=lambda run: not decisions.get(run.name))
    if any(request.name not in decisions for request in requests):
        number = num_covered(requests, Spending(folder, terms), decisions, all_or_none=all_or_none)
        answers = {request.name: index < number for index, request in enumerate(requests)}
        decisions |= {name: answer for name, answer in answers.items() if all_or_none or not answer}
        write_decisions(folder, decisions)
    return {request.name for request in requests if decisions.get(request.name, True)}
