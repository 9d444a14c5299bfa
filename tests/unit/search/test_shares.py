"""Division of a cluster's workers among the runs of an experiment."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from srpo_ray.launch.worker_shares import Share, WorkerRange, WorkerShares
from srpo_ray.search import shares
from srpo_ray.search.concurrency import RunNeeds
from srpo_ray.search.shares import INTERVAL_S, ShareWorkers, equal_shares

ONE_TO_FOUR = WorkerRange(1, 4)


@pytest.mark.parametrize(
    ("workers", "ranges", "expected"),
    [
        (4, [(1, 4)], [4]),
        (9, [(1, 4)], [4]),
        (0, [(1, 4)], [0]),
        # The rest goes to the oldest.
        (7, [(1, 4), (1, 4)], [4, 3]),
        (3, [(1, 4), (1, 4)], [2, 1]),
        # No run grows while another waits for its minimum.
        (3, [(1, 4), (1, 4), (1, 4)], [1, 1, 1]),
        (2, [(1, 4), (1, 4), (1, 4)], [1, 1, 0]),
        # What one cannot take is for the others.
        (9, [(1, 2), (1, 8)], [2, 7]),
        # A fixed number is a range of one value.
        (6, [(2, 2), (1, 8)], [2, 4]),
        # Two are left, which the second cannot start with, and the first can use.
        (5, [(3, 6), (3, 6)], [5, 0]),
        (8, [(3, 6), (2, 6), (1, 1)], [4, 3, 1]),
    ],
)
def test_every_run_gets_its_minimum_before_any_grows_and_the_rest_is_divided_equally(
    workers: int, ranges: list[tuple[int, int]], expected: list[int]
) -> None:
    assert equal_shares(workers, [WorkerRange(*each) for each in ranges]) == expected


def test_share_gets_smaller_only_with_the_cluster_or_with_more_runs() -> None:
    for workers in range(1, 20):
        for number in range(1, 8):
            each = equal_shares(workers, [ONE_TO_FOUR] * number)
            # The first run ends and another takes the last place.
            assert all(after >= before for before, after in zip(each[1:], each, strict=False))
            assert sum(each) == min(workers, 4 * number)


class Phase:
    """A phase of six trials, three at a time, on a cluster whose workers a test sets."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, waits: frozenset[str] = frozenset()) -> None:
        self.now, self.workers, self.ever = 0.0, 6, 6
        self.files = WorkerShares(folder)
        self.trials: list[Any] = []
        monkeypatch.setattr(shares, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(shares, "cluster_workers", lambda _: (self.workers, self.ever))
        searcher = SimpleNamespace(max_concurrent=3)
        needs = RunNeeds({"CPU": 1.0}, 1, 4, [], most=6)
        self.callback = ShareWorkers(folder, needs, 6, searcher, waits.__contains__)

    def set(self, **status: str) -> None:
        self.trials = [Trial(name, state) for name, state in status.items()]

    def shares(self, *asking: str) -> list[int]:
        """Shares of trials at the next look, some of which ask first."""
        for name in asking:
            self.files.ask(name, ONE_TO_FOUR)
        self.now += INTERVAL_S
        self.callback.on_step_begin(1, self.trials)
        return [self.files.share(str(trial), Share(-1, -1)).now for trial in self.trials]


class Trial:
    def __init__(self, name: str, status: str) -> None:
        self.name, self.status = name, status

    def __str__(self) -> str:
        return self.name

    def is_finished(self) -> bool:
        return self.status == "TERMINATED"


def test_trials_about_to_start_keep_their_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phase = Phase(tmp_path, monkeypatch)
    phase.set(a="RUNNING")
    # Two more start at once, so the first does not take their workers.
    assert phase.shares("a") == [2]
    phase.set(a="RUNNING", b="RUNNING", c="PENDING")
    assert phase.shares() == [2, 0, 0]
    assert phase.shares("b") == [2, 2, 0]
    phase.set(a="TERMINATED", b="RUNNING", c="RUNNING", d="TERMINATED", e="TERMINATED", f="RUNNING")
    assert phase.shares("c", "f") == [0, 2, 2, 0, 0, 2]
    phase.set(a="TERMINATED", b="RUNNING", c="TERMINATED", d="TERMINATED", e="TERMINATED", f="RUNNING")
    # None is left, so the last ones grow.
    assert phase.shares() == [0, 3, 0, 0, 0, 3]


def test_trial_that_waits_for_its_budget_keeps_no_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phase = Phase(tmp_path, monkeypatch, waits=frozenset({"b"}))
    ended = dict.fromkeys("cdef", "TERMINATED")
    phase.set(a="RUNNING", b="RUNNING", **ended)
    assert phase.shares("a")[0] == 4


def test_shares_follow_the_nodes_and_requests_follow_the_autoscaler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phase = Phase(tmp_path, monkeypatch)
    phase.set(a="RUNNING", b="RUNNING", **dict.fromkeys("cdef", "TERMINATED"))
    phase.workers, phase.ever = 2, 8
    assert phase.shares("a", "b")[:2] == [1, 1]
    assert phase.files.share("b", Share(0, 0)) == Share(now=1, later=4)
    phase.workers = 5
    assert phase.shares()[:2] == [3, 2]


def test_shares_of_an_earlier_start_do_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WorkerShares(tmp_path).answer({"a": Share(4, 4)})
    phase = Phase(tmp_path, monkeypatch)
    phase.set(a="PENDING")
    assert phase.shares() == [0]


def test_share_stays_while_its_file_cannot_be_read(tmp_path: Path) -> None:
    files = WorkerShares(tmp_path)
    assert files.share("a", Share(2, 3)) == Share(0, 0)
    (tmp_path / "workers" / "shares.json").mkdir(parents=True)
    assert files.share("a", Share(2, 3)) == Share(2, 3)
