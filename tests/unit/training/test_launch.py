import logging
import pickle
from contextlib import nullcontext
from pathlib import Path

import pytest
import ray.exceptions
from ray.train import ControllerError, WorkerGroupError

from srpo_ray.config import RunConfig, apply, load_run
from srpo_ray.errors import OutOfMemoryRunError
from srpo_ray.launch import train as launch
from srpo_ray.launch.fit import StopOnNonRetryableError, non_retryable_error
from srpo_ray.launch.preflight import check_inputs
from srpo_ray.launch.train import warn_of_shared_file
from srpo_ray.live.state import read_progress
from srpo_ray.rewards.base import RewardError
from tests.conftest import SMALL_WORLD

BROKEN = RewardError("preference", ["a cat"], "pool/0", "not finite")


def test_reward_error_is_found_under_what_ray_wraps_around_it() -> None:
    task_error = ray.exceptions.RayTaskError("score", "traceback", BROKEN)
    outer = RuntimeError("outer")
    outer.__cause__ = task_error
    assert non_retryable_error(outer) is BROKEN
    assert non_retryable_error(RuntimeError("of another kind")) is None
    assert non_retryable_error(None) is None


def test_worker_with_a_reward_error_ends_the_run_and_others_may_be_restarted() -> None:
    callback = StopOnNonRetryableError()
    with pytest.raises(RewardError, match="not finite"):
        callback.after_exception(None, {0: RuntimeError("collateral"), 1: BROKEN})
    callback.after_exception(None, {0: RuntimeError("lost node")})
    with pytest.raises(OutOfMemoryRunError, match="the plan"):
        callback.after_exception(None, {0: OutOfMemoryRunError("the plan")})
    with pytest.raises(ValueError, match="no adapter"):
        callback.after_exception(None, {0: ValueError("no adapter of that name")})


def test_message_survives_the_way_from_worker_to_driver() -> None:
    error = pickle.loads(pickle.dumps(ControllerError(BROKEN)))
    assert str(non_retryable_error(error.controller_failure)) == str(BROKEN)
    assert isinstance(pickle.loads(pickle.dumps(WorkerGroupError("x", {0: BROKEN}))).worker_failures[0], RewardError)


@pytest.mark.parametrize(
    ("uri", "hosts", "warned"),
    [
        ("sqlite:///runs/mlflow.db", ["10.0.0.1", "10.0.0.2"], True),
        ("sqlite:///runs/mlflow.db", ["127.0.0.1", "127.0.0.1"], False),
        ("http://10.0.0.1:5000", ["10.0.0.1", "10.0.0.2"], False),
    ],
)
def test_file_that_several_hosts_would_write_is_warned_of(
    uri: str, hosts: list[str], warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(launch.ray, "nodes", lambda: [{"NodeManagerAddress": host, "Alive": True} for host in hosts])
    monkeypatch.setattr(launch, "node_types", list)
    with caplog.at_level(logging.WARNING):
        warn_of_shared_file(uri)
    assert ("expected an MLflow server" in caplog.text) == warned


def test_gpu_kernel_for_attention_is_refused_on_the_cpu_before_anything_starts() -> None:
    changes = {"model.attention": "flash", "model.dtype": "bfloat16"}
    with pytest.raises(
        ValueError, match=r"expected model.attention=native on the CPU, got flash .*training.num_gpus=1"
    ):
        check_inputs(apply(load_run([SMALL_WORLD]), changes))


def test_end_of_ray_trains_handler_of_ctrl_c_is_an_interruption_of_the_run(
    tiny_run: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def abort(*_: object, **__: object) -> None:
        raise SystemExit(1)

    for name in ("ray_session", "reward_pool"):
        monkeypatch.setattr(launch, name, lambda *_, **__: nullcontext())
    monkeypatch.setattr(launch, "is_one_machine", lambda: False)
    monkeypatch.setattr(launch, "check_cluster", lambda _: None)
    monkeypatch.setattr("srpo_ray.launch.fit.fit", abort)
    with pytest.raises(KeyboardInterrupt):
        launch.train(tiny_run)
    progress = read_progress(Path(tiny_run.run_root) / tiny_run.name)
    assert progress is not None
    assert (progress.state, progress.runs[0].status) == ("interrupted", "interrupted")
