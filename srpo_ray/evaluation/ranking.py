"""Ranks of runs, and what differs between them."""

import json
import math

from srpo_ray.evaluation.results import MEAN_UTILITY, UTILITY, Results, TrialRow, finite


def shared_step(results: Results) -> int | None:
    """Updates after which all trials were last evaluated together; None if they share no evaluation after training.

    Trials that a scheduler stopped have fewer updates than the others, so only there do values compare. Failed and
    running trials do not count.
    """
    trials = [row for row in results.trials if not (row.failed or row.unfinished) and row.history]
    steps = [
        {int(each["update"]) for each in row.history if finite(each.get(results.objective)) is not None}
        for row in trials
    ]
    return max((step for step in set.intersection(*steps) if step > 0), default=None) if steps else None


def ranking(results: Results) -> list[tuple[int | None, TrialRow]]:
    """All rows, the best objective first; trials that were stopped early or still run come after those that ended.

    Trials that were stopped early are ranked among themselves by the last update that all trials share, since a value
    after fewer updates does not compare with one after all of them. If they share none, as rungs that are evaluated
    otherwise, trials with more updates come first. Rows without a value and failed ones come last.

    Ranks count trials only, from 1. The other kinds stand where their value puts them, unranked: a repeat
    of the winner is no second place.
    """
    sign, shared = 1 if results.mode == "max" else -1, shared_step(results)

    def order(row: TrialRow) -> tuple[int, float, float]:
        value = row.value_at(results.objective, shared) if row.stopped_early else None
        value = row.value(results.objective) if value is None else value
        group = 2 if row.failed or value is None else int(row.stopped_early or row.unfinished)
        reached = row.evaluated.get("update", 0.0) if group == 1 and shared is None else 0.0
        return (group, -reached, 0.0 if value is None else -sign * value)

    ranks: list[tuple[int | None, TrialRow]] = []
    count = 0
    for row in sorted(results.rows, key=order):
        ranked = row.kind == "trial" and not row.failed and row.value(results.objective) is not None
        count += ranked
        ranks.append((count if ranked else None, row))
    return ranks


def flagged(results: Results) -> list[TrialRow]:
    """List the rows with signs of reward hacking, the worst objective first."""
    sign = 1 if results.mode == "max" else -1
    rows = [row for row in results.rows if row.signs and not row.failed]
    return sorted(rows, key=lambda row: -math.inf if (value := row.value(results.objective)) is None else sign * value)


def varied_params(results: Results) -> list[str]:
    """Dotted paths whose value is not the same in all trials, in the order in which they first appear."""
    paths = dict.fromkeys(path for row in results.trials for path in row.params)

    def count(path: str) -> int:
        return len({json.dumps(row.params.get(path), default=str) for row in results.trials})

    return [path for path in paths if count(path) > 1]


def metric_names(results: Results) -> list[str]:
    """Every metric that some row has, the objective and the reward first, the others by name."""
    found = {name for row in results.rows for evaluation in row.history for name in evaluation} - {"update"}
    first = [name for name in (results.objective, results.reward) if name in found]
    return list(dict.fromkeys(first + sorted(found)))


def shown_metrics(results: Results) -> list[str]:
    """Metrics for tables and charts for people: those of `metric_names` without the utilities of single people.

    These have a table of their own; their mean over the people who test stands for them elsewhere.
    """
    return [name for name in metric_names(results) if name == results.objective or not is_of_one_person(name)]


def is_of_one_person(metric: str) -> bool:
    """True for the utility of a simulated person, and for the mean of the people who validate."""
    return metric.startswith(UTILITY) and metric != MEAN_UTILITY
