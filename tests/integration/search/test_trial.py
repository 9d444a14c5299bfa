"""What a trial gives back when it ends."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from srpo_ray.launch.autoscaler_request import cancel_autoscaler_request, record_autoscaler_request
from srpo_ray.runs.folder import RunFolder
from srpo_ray.search import trial as trial_module
from srpo_ray.search.trial import GRACE, ReleaseTrials
from tests.helpers.ray_request import ask_for_nodes, has_nodes

TRIALS = ("stopped", "late", "other")


class EndedTrial:
    """As much of a trial of Ray Tune as the callback reads."""

    def __init__(self, name: str, **last_result: str) -> None:
        self.name = name
        self.last_result = last_result or None

    def __str__(self) -> str:
        return self.name


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock of the callback."""
    time = [100.0]
    # Not the function for everybody: Ray reads the clock too.
    monkeypatch.setattr(trial_module, "time", SimpleNamespace(monotonic=lambda: time[0]))
    return time


def test_group_of_an_ended_trial_is_removed_once_its_controller_had_time_to_go(
    now: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[str] = []
    monkeypatch.setattr(trial_module, "remove_group", removed.append)
    callback = ReleaseTrials(tmp_path)
    callback.on_trial_complete(1, [], EndedTrial("a", placement_group="stopped"))
    callback.on_step_end(1, [])
    assert removed == []

    now[0] += GRACE / 2
    callback.on_trial_error(2, [], EndedTrial("b", placement_group="failed"))
    # One that never reported had no group yet.
    callback.on_trial_error(2, [], EndedTrial("c"))
    now[0] += GRACE / 2
    callback.on_step_end(2, [])
    assert removed == ["stopped"]
    now[0] += GRACE / 2
    callback.on_step_end(3, [])
    callback.on_step_end(4, [])
    assert removed == ["stopped", "failed"]


@pytest.mark.usefixtures("ray_cluster")
def test_nodes_that_a_stopped_trial_asked_for_are_free_for_the_next(
    now: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_module, "remove_group", lambda _: None)
    folders = [RunFolder(tmp_path / trial) for trial in TRIALS]
    for folder in folders:
        folder.make()
        record_autoscaler_request(folder, folder.path.name)
        ask_for_nodes(folder)
    callback = ReleaseTrials(tmp_path)
    callback.on_trial_complete(1, [], EndedTrial("stopped", placement_group="group"))
    now[0] += GRACE
    callback.on_trial_complete(1, [], EndedTrial("late", placement_group="group"))
    callback.on_step_end(1, [])
    assert [has_nodes(trial) for trial in TRIALS] == [False, True, True]
    callback.on_experiment_end([])
    assert [has_nodes(trial) for trial in TRIALS] == [False, False, True]
    cancel_autoscaler_request(folders[-1])
    assert not has_nodes("other")
