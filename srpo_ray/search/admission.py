"""Admission of runs by the budget of an experiment: start, wait, or do not start. No Ray."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from srpo_ray.config.budget import Limit
from srpo_ray.search.budget_clock import HOUR
from srpo_ray.search.budget_terms import RunName, parse_name
from srpo_ray.search.spending import Spending

Decision = Literal["start", "wait", "refuse"]
Amounts = dict[Limit, float]


class Request(NamedTuple):
    """Run that asks for its start."""

    name: str
    updates: int
    """Updates that the run makes itself, without those of the run that it continues."""
    gpus: float
    """GPUs that its trainers reserve, with the fewest workers of a range."""
    tests: float = 0.0
    """Duration of its tests in evaluations on validation prompts; 0 without a test."""


def decide(request: Request, spending: Spending, running: Sequence[Request], admitted: Mapping[str, bool]) -> Decision:
    """Decide whether the budget has room for a run.

    A trial starts if what is spent, what running trials still need, the trial itself, the later parts of its search and
    the reserve for the runs after the search are within its arm's share of the budget. The first trial of an arm needs
    neither share nor reserve, and a run after the search needs no reserve. A run of unknown cost starts while anything
    is left. A run that does not fit waits while others run, since they may end early. A seed whose schedule has begun
    is trained to its end.

    Args:
        request: The run.
        spending: What the experiment has spent.
        running: Runs that have started and go on.
        admitted: Earlier decisions by name of the run.
    """
    terms, name = spending.terms, parse_name(request.name)
    if not name.is_trial and name.round != 1 and _continues(name, spending):
        return "start"
    spent, own = spending.amounts(), remaining_cost(request, spending)
    kept, later, share = _beside(request, spending, admitted)
    rest = [remaining_cost(run, spending) for run in running]
    for limit, most in terms.limits.items():
        others = [each[limit] for each in rest]
        # Runs at the same time take no more wall-clock time than the longest of them.
        needed = max([own[limit], *others]) if limit == "hours" else own[limit] + sum(others)
        if spent[limit] >= most or spent[limit] + needed + later[limit] > share * (most - kept[limit]):
            return "wait" if running else "refuse"
    return "start"


def _continues(name: RunName, spending: Spending) -> bool:
    """Test whether a seed's run continues one of an earlier round of its schedule."""
    return name.round > 1 or name.arm in spending.terms.schedules


def _beside(request: Request, spending: Spending, admitted: Mapping[str, bool]) -> tuple[Amounts, Amounts, float]:
    """Reserve for the runs after the search, cost of the parts that follow a run, and share of the budget."""
    terms, name = spending.terms, parse_name(request.name)
    none: Amounts = dict.fromkeys(terms.limits, 0.0)
    if not name.is_trial:
        return none, _later_rounds(request, spending, admitted), 1.0
    others = [parse_name(other) for other, started in admitted.items() if started and other != request.name]
    if not any(other.arm == name.arm and other.is_trial for other in others):
        return none, none, 1.0
    trials = sum(other == name for other in others) + 1
    return spending.reserve(), later_parts(name, trials, _gpus(request, spending), spending), terms.share(name.arm)


def later_parts(name: RunName, trials: int, gpus: float, spending: Spending) -> Amounts:
    """Amounts that the later rungs or rounds of a search cost, with the trials that they continue.

    Args:
        name: Name of a run of the part.
        trials: Trials that are trained in the part.
        gpus: GPUs that the trainers of a run reserve.
        spending: What the experiment has spent.
    """
    parts = spending.terms.parts.get(name.arm, ())
    total: Amounts = dict.fromkeys(spending.terms.limits, 0.0)
    for before, part in zip(parts[max(0, name.part - 1) :], parts[name.part :], strict=False):
        trials = before.num_promoted(trials)
        hours = spending.run_hours(RunName(name.arm, True, part.rung), part.updates)
        cost = spending.runs_cost([hours] * trials, [gpus] * trials)
        total = {limit: amount + cost[limit] for limit, amount in total.items()}
    return total


def _later_rounds(request: Request, spending: Spending, admitted: Mapping[str, bool]) -> Amounts:
    """Amounts that later rounds of schedules cost: those of a seed that asks, and of all seeds that have begun."""
    hours, rounds = list[float](), 0
    for other in {request.name, *(other for other, started in admitted.items() if started)}:
        name = parse_name(other)
        schedule = spending.terms.schedules.get(name.arm, ())
        whole = other.removesuffix(f"_round_{name.round}")
        following = f"{whole}_round_{name.round + 1}" if name.round + 1 < len(schedule) else whole
        if not name.is_trial and name.round and not admitted.get(following):
            hours.append(spending.run_hours(name, sum(schedule[name.round :])))
            rounds = max(rounds, len(schedule) - name.round)
    return spending.runs_cost(hours, [_gpus(request, spending)] * len(hours), rounds)


def num_covered(
    requests: Sequence[Request], spending: Spending, admitted: Mapping[str, bool], *, all_or_none: bool
) -> int:
    """Count the runs of a rung or round that the budget covers, with all that follows it.

    Runs that the budget has admitted before are covered.

    Args:
        requests: Runs of the part, the most important first.
        spending: What the experiment has spent.
        admitted: Earlier decisions by name of the run.
        all_or_none: True if the part is not trained without each of its runs.

    Returns:
        Number of the first runs that are covered.
    """
    terms, spent, reserve = spending.terms, spending.amounts(), spending.reserve()
    least = sum(bool(admitted.get(request.name)) for request in requests)
    for number in range(len(requests), least, -1):
        first = requests[:number]
        name = parse_name(first[0].name)
        hours = [_remaining_hours(request, spending) for request in first]
        own = spending.runs_cost(hours, [_gpus(request, spending) for request in first])
        later = later_parts(name, number, _gpus(first[0], spending), spending)
        if all(
            spent[limit] < most
            and spent[limit] + own[limit] + later[limit] <= terms.share(name.arm) * (most - reserve[limit])
            for limit, most in terms.limits.items()
        ):
            return number
        if all_or_none:
            break
    return least


def _cost(hours: float, request: Request, spending: Spending) -> Amounts:
    if not hours:
        return dict.fromkeys(spending.terms.limits, 0.0)
    trained = spending.cost_of(hours + spending.test_hours(request.tests), _gpus(request, spending))
    # Workers that start reserve no GPU yet, but the reward pools wait.
    start = spending.cost_of(spending.start_hours(), 0.0)
    return {name: amount + start[name] for name, amount in trained.items()}


def _remaining_hours(request: Request, spending: Spending) -> float:
    used = next((run for run in spending.runs() if run.name == request.name), None)
    hours = spending.run_hours(parse_name(request.name), request.updates)
    return max(0.0, hours - (used.seconds / HOUR if used else 0.0))


def remaining_cost(request: Request, spending: Spending) -> Amounts:
    """Amounts that a run still needs to its end."""
    return _cost(_remaining_hours(request, spending), request, spending)


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


def too_small(request: Request, spending: Spending) -> Amounts:
    """Limits that the measured cost of one trial for each searched arm exceeds, with that cost.

    Args:
        request: Trial.
        spending: What the experiment has spent.

    Returns:
        Limit -> needed amount; empty if the budget is enough, a run has ended, or the trial is not measured yet.
    """
    runs, terms = spending.runs(), spending.terms
    own = next((run for run in runs if run.name == request.name and run.is_measured), None)
    if own is None or any(run.ended for run in runs):
        return {}
    # A trial in parts goes through all of them.
    whole = sum(part.updates for part in terms.parts.get(parse_name(request.name).arm, ())) or request.updates
    hours = own.seconds / HOUR / own.updates * whole
    arms, cost = max(len(terms.searched), 1), spending.cost_of(hours, _gpus(request, spending))
    return {name: amount * arms for name, amount in cost.items() if amount * arms > terms.limits[name]}


def _gpus(request: Request, spending: Spending) -> float:
    return spending.mean_gpus(parse_name(request.name).arm, request.gpus)
