import json
import logging
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from srpo_ray.cli import main
from srpo_ray.runs.folder import RunFolder
from srpo_ray.tracking.client import allowed_name, connect
from srpo_ray.tracking.delivery import replay
from srpo_ray.tracking.runs import default_uri, start_run
from srpo_ray.tracking.spool import Spool
from srpo_ray.tracking.tracker import Tracker
from tests.conftest import ROOT

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from tests.helpers.tracking.mlflow_server import Server

Until = Callable[[Callable[[], bool]], None]


@pytest.fixture
def run_id(uri: str, tmp_path: Path) -> str:
    return start_run(uri, "small", "trial", tags={}, params={}, record=tmp_path / "run.json")


def values(client: "MlflowClient", run_id: str, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]


def test_abandoned_tracker_sends_nothing_more_and_leaves_the_run_open(
    uri: str, client: "MlflowClient", run_id: str, tmp_path: Path
) -> None:
    tracker = Tracker("http://127.0.0.1:9", run_id, tmp_path / "s.jsonl", flush_interval_s=30)
    tracker.log_metrics({"reward/total": 0.5}, 1)
    tracker.abandon(timeout_s=90)
    assert all(thread.join(0.0) for thread in tracker._threads.values())
    assert client.get_run(run_id).info.status == "RUNNING"
    assert values(client, run_id, "reward/total") == []
    assert replay(tmp_path / "s.jsonl", uri) == 1
    assert values(client, run_id, "reward/total") == [(1, 0.5)]


def test_closed_tracker_is_not_abandoned(uri: str, client: "MlflowClient", run_id: str, tmp_path: Path) -> None:
    tracker = Tracker(uri, run_id, tmp_path / "s.jsonl", flush_interval_s=0.05)
    assert tracker.close("FINISHED", timeout_s=90)
    tracker.abandon()
    assert client.get_run(run_id).info.status == "FINISHED"
    assert not (tmp_path / "s.jsonl").exists()


def test_everything_arrives_and_the_spool_is_deleted(uri: str, client: "MlflowClient", run_id: str, tmp_path: Path):
    image = tmp_path / "p.png"
    image.write_bytes(b"png")
    tracker = Tracker(uri, run_id, tmp_path / "s.jsonl", flush_interval_s=0.05)
    for step in range(30):
        tracker.log_metrics({"reward/total": step / 4, "odd(name)": 1}, step)
    tracker.log_metrics({f"m{number}": number for number in range(2500)}, 0)
    tracker.log_image(image, "gallery")
    tracker.log_text("algorithm: {}\n", "config.yaml")
    assert tracker.close("FINISHED", timeout_s=90)
    assert tracker.close("FINISHED", timeout_s=90)

    assert values(client, run_id, "reward/total") == [(step, step / 4) for step in range(30)]
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["m2499"] == 2499
    assert run.data.metrics[allowed_name("odd(name)")] == 1
    assert [file.path for file in client.list_artifacts(run_id, "gallery")] == ["gallery/p.png"]
    stored = Path(client.download_artifacts(run_id, "config.yaml", str(tmp_path)))
    assert stored.read_text() == "algorithm: {}\n"
    assert not (tmp_path / "s.jsonl").exists()


def test_nan_and_infinities_become_nan(uri: str, client: "MlflowClient", run_id: str, tmp_path: Path):
    tracker = Tracker(uri, run_id, tmp_path / "s.jsonl")
    for step, value in enumerate((math.nan, math.inf, -math.inf, 1.0)):
        tracker.log_metrics({"loss/total": value}, step)
    assert tracker.close("FAILED", timeout_s=90)
    assert [math.isnan(value) for _, value in values(client, run_id, "loss/total")] == [True] * 3 + [False]


def test_a_refused_metric_or_missing_image_does_not_stop_the_others(
    uri: str,
    client: "MlflowClient",
    run_id: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    from srpo_ray.tracking import delivery

    monkeypatch.setattr(delivery, "allowed_name", lambda name: name)
    tracker = Tracker(uri, run_id, tmp_path / "s.jsonl", flush_interval_s=30)
    tracker.log_metrics({"good": 0.0}, 0)
    tracker.log_metrics({"../bad": 1.0}, 1)
    tracker.log_image(tmp_path / "never_drawn.png", "gallery")
    tracker.log_metrics({"good": 2.0}, 2)
    assert tracker.close("FINISHED", timeout_s=90)
    assert values(client, run_id, "good") == [(0, 0.0), (2, 2.0)]
    assert "refused the metrics of step 1" in caplog.text
    assert "the file no longer exists" in caplog.text


def test_an_unreachable_artifact_store_does_not_block_metrics(
    uri: str, client: "MlflowClient", run_id: str, tmp_path: Path, until: Until
):
    (tmp_path / "artifacts").write_text("in the way of the folder")
    tracker = Tracker(uri, run_id, tmp_path / "s.jsonl", flush_interval_s=0.05)
    tracker.log_text("report", "report.html")
    tracker.log_metrics({"reward/total": 1.0}, 0)
    until(lambda: values(client, run_id, "reward/total") == [(0, 1.0)])
    (tmp_path / "artifacts").unlink()
    assert tracker.close("FINISHED", timeout_s=90)
    assert [file.path for file in client.list_artifacts(run_id)] == ["report.html"]


def test_training_never_waits_and_replay_sends_the_rest(
    uri: str, client: "MlflowClient", run_id: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    spool = tmp_path / "s.jsonl"
    tracker = Tracker("http://127.0.0.1:9", run_id, spool, flush_interval_s=0.01)
    start = time.monotonic()
    for step in range(500):
        tracker.log_metrics({"reward/total": float(step)}, step)
    assert time.monotonic() - start < 5
    assert not tracker.close("FINISHED", timeout_s=0.5)
    assert time.monotonic() - start < 10
    assert (
        len([r for r in caplog.records if r.levelno == logging.WARNING and r.name.endswith(("tracker", "sink"))]) <= 2
    )

    shutil.copy(spool, tmp_path / "copy.jsonl")
    assert replay(spool, uri) == 501
    assert not spool.exists()
    assert replay(tmp_path / "copy.jsonl", uri) == 501
    assert values(client, run_id, "reward/total") == [(step, float(step)) for step in range(500)]
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_repeated_update_is_not_tracked_again(
    uri: str, client: "MlflowClient", run_id: str, tmp_path: Path, until: Until
):
    spool = tmp_path / "s.jsonl"
    killed = Tracker(uri, run_id, spool, flush_interval_s=0.01)
    for step in range(1, 5):
        killed.log_metrics({"loss": float(step)}, step)
    killed.log_metrics({"evaluator": 0.5}, 2)
    until(lambda: len(values(client, run_id, "evaluator")) == 1)
    again = Tracker(uri, run_id, spool)
    for step in range(3, 7):
        again.log_metrics({"loss": float(step), "evaluator": step / 10}, step)
    assert again.close("FINISHED", timeout_s=90)
    assert values(client, run_id, "loss") == [(step, float(step)) for step in range(1, 7)]
    assert values(client, run_id, "evaluator") == [(2, 0.5), (3, 0.3), (4, 0.4), (5, 0.5), (6, 0.6)]


def test_command_sends_the_records_that_a_run_could_not(
    uri: str, client: "MlflowClient", tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = RunFolder(tmp_path)
    run_id = start_run(uri, "small", "trial", tags={}, params={}, record=folder.tracker_record)
    tracker = Tracker("http://127.0.0.1:9", run_id, folder.tracker_spool, flush_interval_s=0.01)
    tracker.log_metrics({"loss": 1.0}, 1)
    assert not tracker.close("FINISHED", timeout_s=0.1)
    assert main(["replay", str(tmp_path)]) == 0
    assert main(["replay", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "2 records sent\n0 records sent\n"
    assert values(client, run_id, "loss") == [(1, 1.0)]
    assert main(["replay", str(tmp_path / "nowhere")]) == 2
    assert "expected the folder of a tracked run" in capsys.readouterr().err


def test_replay_of_no_file_is_an_error(uri: str, tmp_path: Path):
    with pytest.raises(ValueError, match="does not exist"):
        replay(tmp_path / "none.jsonl", uri)


def test_a_new_tracker_first_sends_the_records_of_a_killed_one(
    uri: str, client: "MlflowClient", run_id: str, tmp_path: Path
):
    left = Spool(tmp_path / "s.jsonl")
    left.append({"run_id": run_id, "kind": "metrics", "values": {"a": 1.0}, "step": 0, "time_ms": 1})
    with left.path.open("ab") as file:
        file.write(b'{"run_id": "cut sho')
    tracker = Tracker(uri, run_id, left.path)
    tracker.log_metrics({"a": 2.0}, 1)
    assert tracker.close("KILLED", timeout_s=90)
    assert values(client, run_id, "a") == [(0, 1.0), (1, 2.0)]
    assert client.get_run(run_id).info.status == "KILLED"


def test_a_full_disk_is_a_warning(
    uri: str, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    tracker = Tracker(uri, run_id, tmp_path / "s.jsonl")
    monkeypatch.setattr(Spool, "append", no_space)
    tracker.log_metrics({"a": 1.0}, 0)
    tracker.log_metrics({"a": 1.0}, 1)
    tracker.close("FINISHED", timeout_s=90)
    assert caplog.text.count("Metrics are lost") == 1


def test_three_processes_make_and_write_one_sqlite_file(tmp_path: Path):
    uri = default_uri(tmp_path / "new")
    script = [sys.executable, str(ROOT / "tests/helpers/tracking/log_from_process.py"), uri]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    children = [subprocess.Popen([*script, f"trial_{n}", str(tmp_path), "200"], env=environment) for n in range(3)]
    assert [child.wait() for child in children] == [0, 0, 0]
    client = connect(uri)
    for n in range(3):
        run_id = json.loads((tmp_path / f"trial_{n}.json").read_text())["run_id"]
        assert values(client, run_id, "reward/total") == [(step, step / 2) for step in range(200)]
        assert len(values(client, run_id, "loss/total")) == 200


def test_no_record_is_lost_while_the_server_is_unreachable(
    server: "Server", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: Until
):
    from srpo_ray.tracking import sink as module

    monkeypatch.setattr(module, "_LAST_RETRY_S", 0.5)
    run_id = start_run(server.uri, "small", "trial", tags={}, params={}, record=tmp_path / "run.json")
    client = connect(server.uri)
    tracker = Tracker(server.uri, run_id, tmp_path / "s.jsonl", flush_interval_s=0.05)
    tracker.log_metrics({"reward/total": 0.0, "loss/total": math.nan}, 0)
    until(lambda: len(values(client, run_id, "reward/total")) == 1)
    server.stop()
    tracker.log_text("written while the server was away", "note.txt")
    for step in range(1, 300):
        tracker.log_metrics({"reward/total": float(step)}, step)
    server.start()
    tracker.log_metrics({"reward/total": 300.0}, 300)
    assert tracker.close("FINISHED", timeout_s=90)
    assert values(client, run_id, "reward/total") == [(step, float(step)) for step in range(301)]
    assert math.isnan(values(client, run_id, "loss/total")[0][1])
    assert [file.path for file in client.list_artifacts(run_id)] == ["note.txt"]
    assert client.get_run(run_id).info.status == "FINISHED"
