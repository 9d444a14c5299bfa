"""Equal shares of the cluster's workers for the runs of an experiment that may have several numbers of workers."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray import tune

from srpo_ray.launch.worker_shares import Share, WorkerRange, WorkerShares
from srpo_ray.search.concurrency import RunNeeds, cluster_workers

INTERVAL_S = 1.0
"""Seconds between two looks at the trials and at the cluster."""


def equal_shares(workers: int, ranges: Sequence[WorkerRange]) -> list[int]:
    """Divide workers among runs.

    Each run gets its minimum first, in order, so no run grows as long as another waits. The rest goes to the smallest
    run below its maximum, one worker at a time, and to the first of equals. With the oldest run first, a share gets
    smaller only if the cluster does, or if more runs start than end.

    Args:
        workers: Workers that the cluster has room for.
        ranges: Numbers of workers that each run can train with, the oldest run first.

    Returns:
        Workers of each run; 0 if there is no room for its minimum.
    """
    shares = list[int]()
    for each in ranges:
        room = workers - sum(shares)
        shares.append(each.least if each.least <= room else 0)
    for _ in range(workers - sum(shares)):
        growing = [i for i, each in enumerate(ranges) if 0 < shares[i] < each.most]
        if not growing:
            break
        shares[min(growing, key=lambda i: shares[i])] += 1
    return shares


class ShareWorkers(tune.Callback):
    """Divides the workers of the cluster among the trials that run and those that are about to start.

    Args:
        folder: Folder of the experiment.
        needs: What runs and replicas need.
        number: Trials of the phase.
        searcher: Source of the trials, with the attribute `max_concurrent`.
        waits: Test by a run's name whether it waits for something other than workers, such as the budget.
    """

    def __init__(
        self, folder: Path, needs: RunNeeds, number: int, searcher: Any, waits: Callable[[str], bool] = lambda _: False
    ) -> None:
        self._shares = WorkerShares(folder)
        self._needs = needs
        self._number = number
        self._searcher = searcher
        self._waits = waits
        self._next = 0.0
        self._answered: dict[str, Share] | None = None

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Ray Tune again and again."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + INTERVAL_S
        running = [str(trial) for trial in trials if trial.status == "RUNNING"]
        asked = {name: workers for name in running if (workers := self._shares.asked(name))}
        starting = sum(name not in asked and not self._waits(name) for name in running)
        left = self._number - len(running) - sum(trial.is_finished() for trial in trials)
        starting += max(0, min(self._searcher.max_concurrent - len(running), left))
        # Without them, a run would take workers that it has to give back at once.
        ranges = [*asked.values(), *[WorkerRange(self._needs.workers, self._needs.most_workers)] * starting]
        now, later = (equal_shares(workers, ranges) for workers in cluster_workers(self._needs))
        answers = {name: Share(*share) for name, *share in zip(asked, now, later, strict=False)}
        if answers != self._answered:
            self._shares.answer(answers)
            self._answered = answers
