"""Status of the MLflow runs of a command that an error or Ctrl-C stops, read back from the store."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from srpo_ray.config import load_experiment, load_run
from srpo_ray.errors import CommandInterruptedError, RunFailedError
from srpo_ray.launch import train as train_module
from srpo_ray.launch.stopped_runs import ending_runs
from srpo_ray.launch.train import train
from srpo_ray.runs.folder import RunFolder
from srpo_ray.search import experiment as experiment_module
from srpo_ray.search.experiment import run_experiment
from srpo_ray.tracking.record import read_record
from srpo_ray.tracking.runs import start_run
from srpo_ray.tracking.tracker import Tracker
from tests.conftest import ROOT, SMALL_WORLD

if TYPE_CHECKING:
    from mlflow import MlflowClient


def begun(uri: str, folder: Path) -> RunFolder:
    """A run whose MLflow run is open."""
    start_run(uri, "small", folder.name, tags={}, params={}, record=RunFolder(folder).tracker_record)
    return RunFolder(folder)


def status(client: "MlflowClient", folder: RunFolder) -> str:
    return client.get_run(read_record(folder.tracker_record)["run_id"]).info.status


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RunFailedError("broken"), "FAILED"),
        (ValueError("unusable"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (CommandInterruptedError("stopped; resume with: go on"), "KILLED"),
    ],
)
def test_stopped_run_is_ended_and_its_error_goes_on(
    uri: str, client: "MlflowClient", tmp_path: Path, error: BaseException, expected: str
) -> None:
    folder = begun(uri, tmp_path / "mine")
    with pytest.raises(type(error)), ending_runs(folder):
        raise error
    assert status(client, folder) == expected
    begun(uri, folder.path)
    assert status(client, folder) == "RUNNING"


def test_run_without_an_error_keeps_its_status(uri: str, client: "MlflowClient", tmp_path: Path) -> None:
    folder = begun(uri, tmp_path / "mine")
    with ending_runs(folder):
        pass
    assert status(client, folder) == "RUNNING"


def test_runs_of_an_experiment_are_ended_unless_they_have_ended_before(
    uri: str, client: "MlflowClient", tmp_path: Path
) -> None:
    names = ("cut", "failed", "finished", "stopped")
    parent, runs = begun(uri, tmp_path), {name: begun(uri, tmp_path / "trials" / name) for name in names}
    (tmp_path / "trials" / "not_begun").mkdir()
    runs["failed"].failure.write_text("{}")
    runs["finished"].finished.write_text("{}")
    client.set_terminated(read_record(runs["stopped"].tracker_record)["run_id"], "FAILED")
    parts = [*runs.values(), RunFolder(tmp_path / "trials" / "not_begun")]
    with pytest.raises(RuntimeError), ending_runs(parent, lambda: parts):
        raise RuntimeError("broken")
    found = {name: status(client, folder) for name, folder in runs.items()}
    assert found == {"cut": "KILLED", "failed": "FAILED", "finished": "FINISHED", "stopped": "FAILED"}
    assert status(client, parent) == "FAILED"


def test_metrics_that_a_stopped_run_has_left_are_sent_and_not_repeated_by_its_resume(
    uri: str, client: "MlflowClient", tmp_path: Path
) -> None:
    folder = begun(uri, tmp_path / "mine")
    run_id = read_record(folder.tracker_record)["run_id"]
    dead = "http://127.0.0.1:9"
    lost = Tracker(dead, run_id, folder.tracker_spool, flush_interval_s=100.0)
    lost.log_metrics({"loss": 0.5}, 3)
    lost.abandon()
    with pytest.raises(KeyboardInterrupt), ending_runs(folder):
        raise KeyboardInterrupt
    assert [(each.step, each.value) for each in client.get_metric_history(run_id, "loss")] == [(3, 0.5)]
    resumed = Tracker(uri, run_id, folder.tracker_spool, flush_interval_s=0.1)
    for step in (3, 4):
        resumed.log_metrics({"loss": 0.5}, step)
    assert resumed.close("FINISHED")
    assert [each.step for each in client.get_metric_history(run_id, "loss")] == [3, 4]
    assert status(client, folder) == "FINISHED"


def test_store_that_cannot_be_reached_gives_a_warning_and_the_error_goes_on(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, part = begun(uri, tmp_path), begun(uri, tmp_path / "trials" / "one")
    asked: list[str] = []

    def broken(address: str) -> None:
        asked.append(address)
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr("srpo_ray.tracking.stopped.connect", broken)
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt), ending_runs(folder, lambda: [part]):
        raise KeyboardInterrupt
    assert asked == [uri], "an address that does not answer takes its time, so it is asked once"
    assert "MLflow was not told that the run in" in caplog.text


def test_damaged_record_or_deleted_run_hides_neither_the_error_nor_the_other_runs(
    uri: str, client: "MlflowClient", tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parent, damaged, last = (begun(uri, tmp_path / name) for name in ("parent", "damaged", "last"))
    damaged.tracker_record.write_text("no record")
    record = last.tracker_record.read_text()
    deleted = read_record(parent.tracker_record)["run_id"]
    client.set_terminated(deleted)
    parent.tracker_record.write_text(parent.tracker_record.read_text().replace(deleted, "0" * 32))
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(KeyboardInterrupt),
        ending_runs(parent, lambda: [damaged, last]),
    ):
        raise KeyboardInterrupt
    assert last.tracker_record.read_text() == record
    assert status(client, last) == "KILLED"
    assert caplog.text.count("MLflow was not told that the run in") == 2


def test_training_that_ctrl_c_stops_is_killed_in_mlflow(
    uri: str, client: "MlflowClient", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(folder: RunFolder, *_: Any) -> None:
        begun(uri, folder.path)
        raise KeyboardInterrupt

    monkeypatch.setattr(train_module, "_train_in", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(load_run([SMALL_WORLD], [f"run_root={tmp_path}", "name=mine"]))
    assert status(client, RunFolder(tmp_path / "mine")) == "KILLED"


def test_experiment_that_fails_ends_its_own_run_and_those_of_its_trials(
    uri: str, client: "MlflowClient", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_config: Any, _base: Any, _runs: Sequence[Any], folder: Path, *_: Any) -> None:
        begun(uri, folder)
        begun(uri, folder / "trials" / "one")
        raise ValueError("no trial finished")

    monkeypatch.setattr(experiment_module, "_run_parts", fail)
    file = ROOT / "configs" / "experiments" / "small_world_sweep.yaml"
    config, base = load_experiment(file, [f"run_root={tmp_path}"])
    with pytest.raises(ValueError, match="no trial finished"):
        run_experiment(config, base, None, "command", "resume")
    folder = tmp_path / config.name
    assert status(client, RunFolder(folder)) == "FAILED"
    assert status(client, RunFolder(folder / "trials" / "one")) == "KILLED"
