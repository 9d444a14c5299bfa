"""Updates that the trials of a search make if successive halving stops weak ones."""

import math
from typing import NamedTuple

from srpo_ray.config.search import SchedulerConfig

ASSUMPTION = (
    "of the trials that reach a rung of successive halving, one in search.scheduler.reduction_factor continues, and at"
    " least one; the others stop at the first evaluation from the rung on. While few trials have reached a rung, the"
    " asynchronous scheduler lets more continue"
)
"""Assumption of `trial_ends`, in words."""


class TrialEnd(NamedTuple):
    """Trials of a search that end after the same number of updates."""

    update: int
    trials: float
    """Their expected number."""


def trial_ends(num_trials: int, num_updates: int, interval: int, scheduler: SchedulerConfig) -> list[TrialEnd]:
    """Compute after how many updates the trials of one search are expected to end.

    Args:
        num_trials: Trials of the search.
        num_updates: Updates of a trial that is not stopped.
        interval: Updates between two evaluations, at which trials are compared.
        scheduler: Early stopping of the search.

    Returns:
        Ends in the order of updates; the last one is `num_updates`.
    """
    ends, left = list[TrialEnd](), float(num_trials)
    for update in _decisions(num_updates, interval, scheduler):
        kept = min(left, max(left / scheduler.reduction_factor, 1.0))
        if kept < left:
            ends.append(TrialEnd(update, left - kept))
        left = kept
    return [*ends, TrialEnd(num_updates, left)]


def _decisions(num_updates: int, interval: int, scheduler: SchedulerConfig) -> list[int]:
    """Updates after which trials are stopped: the first evaluation from each rung on, before the last update."""
    if scheduler.type != "asha":
        return []
    updates, rung = list[int](), float(scheduler.grace_updates)
    while rung < num_updates:
        updates.append(math.ceil(rung / interval) * interval)
        rung *= scheduler.reduction_factor
    return sorted({update for update in updates if update < num_updates})
