"""What a trial gives back when it ends."""

from types import SimpleNamespace

import pytest

from srpo_ray.tuning import trial as trial_module
from srpo_ray.tuning.trial import GRACE, ReleaseTrials


def test_group_of_an_ended_trial_is_removed_once_its_controller_had_time_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []
    now = [100.0]
    monkeypatch.setattr(trial_module, "remove_group", removed.append)
    monkeypatch.setattr(trial_module.time, "monotonic", lambda: now[0])
    callback = ReleaseTrials()
    callback.on_trial_complete(1, [], SimpleNamespace(last_result={"placement_group": "stopped"}))
    callback.on_step_end(1, [])
    assert removed == []

    now[0] += GRACE / 2
    callback.on_trial_error(2, [], SimpleNamespace(last_result={"placement_group": "failed"}))
    # One that never reported had no group yet.
    callback.on_trial_error(2, [], SimpleNamespace(last_result=None))
    now[0] += GRACE / 2
    callback.on_step_end(2, [])
    assert removed == ["stopped"]
    now[0] += GRACE / 2
    callback.on_step_end(3, [])
    callback.on_step_end(4, [])
    assert removed == ["stopped", "failed"]
