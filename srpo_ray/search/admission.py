"""Admission of runs by the budget of an experiment: start, wait, or do not start. No Ray."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from srpo_ray.config.budget import Limit
from srpo_ray.search.spending import Spending, parse_name

Decision = Literal["start", "wait", "refuse"]


class Request(NamedTuple):
    """Run that asks for its start."""

    name: str
    updates: int
    """Updates of the whole run."""
    gpus: float
    """GPUs that its trainers reserve, with the fewest workers of a range."""


def decide(request: Request, spending: Spending, running: Sequence[Request], admitted: Mapping[str, bool]) -> Decision:
    """Decide whether the budget has room for a run.

    A trial starts if what is spent, what running trials still need, the trial itself and the reserve for the runs after
    the search are within its arm's share of the budget. The first trial of an arm needs neither share nor reserve, and
    a run after the search needs no reserve. A run of unknown cost starts while anything is left. A run that does not
    fit waits while others run, since they may end early.

    Args:
        request: The run.
        spending: What the experiment has spent.
        running: Runs that have started and go on.
        admitted: Earlier decisions by name of the run.
    """
    terms, name = spending.terms, parse_name(request.name)
    first = not any(started and parse_name(other) == name for other, started in admitted.items())
    kept = spending.reserve() if name.is_trial and not first else dict.fromkeys(terms.limits, 0.0)
    share = terms.share(name.arm) if name.is_trial and not first else 1.0
    spent, own = spending.amounts(), expected_cost(request, spending)
    rest = [remaining_cost(run, spending) for run in running]
    for limit, most in terms.limits.items():
        others = [each[limit] for each in rest]
        # Runs at the same time take no more wall-clock time than the longest of them.
        needed = max([own[limit], *others]) if limit == "hours" else own[limit] + sum(others)
        if spent[limit] >= most or spent[limit] + needed > share * (most - kept[limit]):
            return "wait" if running else "refuse"
    return "start"


def expected_cost(request: Request, spending: Spending) -> dict[Limit, float]:
    """Amounts that a whole run is expected to cost; 0 as long as no update of any run is measured or planned."""
    hours = spending.hours_per_update(parse_name(request.name).arm)
    return spending.cost_of((hours or 0.0) * request.updates, _gpus(request, spending))


def remaining_cost(request: Request, spending: Spending) -> dict[Limit, float]:
    """Amounts that a running run still needs to its end."""
    used = next((run for run in spending.runs() if run.name == request.name), None)
    whole = expected_cost(request, spending)
    if used is None:
        return whole
    spent = spending.cost_of(used.seconds / 3600, _gpus(request, spending))
    return {name: max(0.0, amount - spent[name]) for name, amount in whole.items()}


def stops(request: Request, spending: Spending) -> bool:
    """Decide at a report whether a running trial is stopped. Runs after the search are never stopped.

    A trial is stopped if the budget is spent, or if it shows that the budget cannot pay one trial for each searched
    arm, and no run has ended yet.
    """
    name = parse_name(request.name)
    if not name.is_trial:
        return False
    terms, spent = spending.terms, spending.amounts()
    if any(spent[limit] >= most for limit, most in terms.limits.items()):
        return True
    return bool(too_small(request, spending))


def too_small(request: Request, spending: Spending) -> dict[Limit, float]:
    """Limits that the measured cost of one trial for each searched arm exceeds, with that cost.

    Args:
        request: Trial that has made updates.
        spending: What the experiment has spent.

    Returns:
        Limit -> needed amount; empty if the budget is enough, a run has ended, or the trial is not measured yet.
    """
    runs = spending.runs()
    own = next((run for run in runs if run.name == request.name and run.updates), None)
    if own is None or any(run.ended for run in runs):
        return {}
    hours = own.seconds / 3600 / own.updates * request.updates
    arms = max(len(spending.terms.searched), 1)
    cost, limits = spending.cost_of(hours, _gpus(request, spending)), spending.terms.limits
    return {name: amount * arms for name, amount in cost.items() if amount * arms > limits[name]}


def _gpus(request: Request, spending: Spending) -> float:
    return spending.mean_gpus(parse_name(request.name).arm, request.gpus)
