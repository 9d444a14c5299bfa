"""Size of a trial's group of workers: it follows the share, from one checkpoint to the next."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision, ScalingDecision
from ray.train.v2.api import data_parallel_trainer

from srpo_ray.launch import trial_scaling
from srpo_ray.launch.fit import MinimalTorchTrainer
from srpo_ray.launch.trial_scaling import INTERVAL_S, SharedCluster, TrialScalingPolicy
from srpo_ray.launch.worker_shares import Share, WorkerRange, WorkerShares
from srpo_ray.runs.folder import CHECKPOINT_SAVED, STARTED, RunFolder, append_row

WORKER = {"CPU": 8.0, "slot": 1.0}
RESIZE_S = 60.0


class Group:
    """Group of a trial of 2 to 4 workers, and the time."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.started, self.workers = 100.0, 0.0, 2
        self.folder = RunFolder(folder / "trials" / "a")
        self.folder.make()
        self.shares = WorkerShares(folder)
        self.requested: list[int] = []
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=lambda _: None)
        monkeypatch.setattr(trial_scaling, "time", clock)
        cluster = SharedCluster(self.shares, "a", WorkerRange(2, 4), WORKER)
        self.policy = TrialScalingPolicy(ScalingConfig(num_workers=(2, 4)), cluster, self.folder, RESIZE_S)
        request = self.policy._get_num_workers_for_resource_request
        monkeypatch.setattr(self.policy, "_maybe_send_resource_request", lambda: self.requested.append(request()))

    def starts_with(self) -> int | None:
        self.now += INTERVAL_S
        return size(self.policy.make_decision_for_non_running_worker_group())

    def becomes(self) -> int | None:
        """Number of workers that replaces that of now."""
        self.now += INTERVAL_S
        state = SimpleNamespace(num_workers=self.workers, start_time=self.started)
        return size(self.policy.make_decision_for_running_worker_group(state, None))

    def saves(self) -> None:
        append_row(self.folder.events, {"event": CHECKPOINT_SAVED})


def size(decision: ScalingDecision) -> int | None:
    if isinstance(decision, NoopDecision):
        return None
    assert isinstance(decision, ResizeDecision)
    assert decision.resources_per_worker == WORKER
    return decision.num_workers


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Group:
    return Group(tmp_path, monkeypatch)


def test_trial_starts_as_soon_as_its_share_is_its_minimum(group: Group) -> None:
    assert group.starts_with() is None
    group.shares.answer({"a": Share(1, 3)})
    assert group.starts_with() is None
    group.shares.answer({"a": Share(3, 3)})
    assert group.starts_with() == 3


def test_trial_requests_the_nodes_of_its_later_share_and_at_least_of_its_minimum(group: Group) -> None:
    group.starts_with()
    group.shares.answer({"a": Share(1, 1)})
    group.starts_with()
    group.shares.answer({"a": Share(2, 4)})
    group.becomes()
    assert group.requested == [2, 2, 4]


def test_trial_of_its_share_stays_as_it_is(group: Group) -> None:
    group.shares.answer({"a": Share(2, 4)})
    for _ in range(3):
        group.saves()
        assert group.becomes() is None


def test_trial_grows_after_the_interval_and_at_a_checkpoint(group: Group) -> None:
    group.started = group.now
    group.shares.answer({"a": Share(4, 4)})
    for _ in range(3):
        group.saves()
        assert group.becomes() is None
    group.now += RESIZE_S
    assert group.becomes() is None
    append_row(group.folder.events, {"event": STARTED})
    assert group.becomes() is None
    group.saves()
    assert group.becomes() == 4


def test_trial_gives_workers_up_at_its_next_checkpoint_without_the_interval(group: Group) -> None:
    group.started, group.workers = group.now, 4
    group.saves()
    group.shares.answer({"a": Share(2, 4)})
    assert group.becomes() is None
    group.saves()
    assert group.becomes() == 2


def test_trial_that_has_a_place_keeps_it_below_its_minimum(group: Group) -> None:
    group.shares.answer({"a": Share(0, 0)})
    for _ in range(3):
        group.saves()
        assert group.becomes() is None


def test_share_that_changes_back_before_a_checkpoint_restarts_nothing(group: Group) -> None:
    group.shares.answer({"a": Share(4, 4)})
    assert group.becomes() is None
    group.shares.answer({"a": Share(2, 4)})
    assert group.becomes() is None
    group.saves()
    group.shares.answer({"a": Share(4, 4)})
    assert group.becomes() is None
    group.saves()
    assert group.becomes() == 4


def test_ray_train_gets_the_policy_of_the_trainer(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    used = list[Any]()

    def run(self: Any, *, scaling_policy: Any, **_: Any) -> Any:
        used.append(scaling_policy)
        return SimpleNamespace(error=None)

    trainer = data_parallel_trainer.DataParallelTrainer
    monkeypatch.setattr(trainer, "_initialize_and_run_controller", run)
    monkeypatch.setattr(data_parallel_trainer, "ObjectRefWrapper", lambda function: function)
    shared = MinimalTorchTrainer(print, scaling_config=ScalingConfig(num_workers=(2, 4)))
    shared.policy = group.policy
    shared.fit()
    MinimalTorchTrainer(print, scaling_config=ScalingConfig(num_workers=(2, 4))).fit()
    assert used[0] is group.policy
    assert not isinstance(used[1], TrialScalingPolicy)
