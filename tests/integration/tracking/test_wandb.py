"""W&B and TensorBoard beside an unreachable MLflow server, in processes that are killed and interrupted."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from srpo_ray.config.tracking import WandbConfig
from srpo_ray.tracking.runs import end_run, replay_run, start_run
from srpo_ray.tracking.sink import DeliveryError
from srpo_ray.tracking.spool import MLFLOW, Spool
from srpo_ray.tracking.tensorboard_sink import TensorBoardSink
from srpo_ray.tracking.wandb_sink import WandbRun, WandbSink
from tests.conftest import ROOT
from tests.helpers.tracking.stored_files import tensorboard_scalars, wandb_records, wandb_rows

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = pytest.mark.skipif(find_spec("wandb") is None, reason="needs wandb")

NOWHERE = "http://127.0.0.1:9"


def sink(folder: Path, name: str = "abc", **settings: object) -> WandbSink:
    config = WandbConfig.model_validate(settings)
    return WandbSink(config, WandbRun(name, "run", "group", {"a": {"b": 1}}), folder, system_metrics=False)


def metrics(step: int, **values: float) -> dict[str, object]:
    return {"kind": "metrics", "values": values, "step": step, "time_ms": 1000 + step}


def rows(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(row["update"], row[name]) for row in wandb_rows(folder / "wandb") if name in row]


def process(folder: Path, start: int, stop: int, end: str) -> subprocess.Popen[str]:
    script = str(ROOT / "tests/helpers/tracking/log_to_sinks.py")
    command = [sys.executable, script, NOWHERE, str(folder), str(start), str(stop), end]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)


def helpers_of(child: int) -> list[psutil.Process]:
    """Helper processes that wandb has started for a process."""
    return [
        each
        for each in psutil.process_iter(["cmdline"])
        if each.info["cmdline"] and each.info["cmdline"][-2:] == ["--pid", str(child)]
    ]


def test_killed_and_interrupted_processes_leave_each_tracker_every_update_once(
    uri: str, client: "MlflowClient", tmp_path: Path, until: Callable[[Callable[[], bool]], None]
) -> None:
    spool, record = tmp_path / "s.jsonl", tmp_path / "run.json"
    killed = process(tmp_path, 0, 4, "kill")
    assert killed.wait(120) == -signal.SIGKILL
    until(lambda: not helpers_of(killed.pid))

    # It resumes from a checkpoint at update 2.
    interrupted = process(tmp_path, 2, 6, "interrupt")
    assert interrupted.stdout
    assert interrupted.stdout.readline() == "ready\n"
    # A terminal sends Ctrl-C to all processes of the group.
    os.killpg(interrupted.pid, signal.SIGINT)
    assert interrupted.wait(120) == 0
    until(lambda: not helpers_of(interrupted.pid))

    expected = [(step, step / 2) for step in range(6)]
    assert rows(tmp_path, "reward/total") == expected
    assert tensorboard_scalars(tmp_path / "tensorboard") == {"reward/total": expected}

    # MLflow was unreachable all the time. It gets the records now, and the others nothing more.
    run_id = start_run(uri, "small", "trial", tags={}, params={}, record=record)
    spool.write_text(spool.read_text().replace('"abc"', json.dumps(run_id)))
    spool.with_name("s.jsonl.wandb.offset").write_text(str(spool.stat().st_size))
    spool.with_name("s.jsonl.tensorboard.offset").write_text(str(spool.stat().st_size))
    assert replay_run(record, spool, None, [sink(tmp_path), TensorBoardSink(tmp_path / "tensorboard")]) == 7
    assert [(each.step, each.value) for each in client.get_metric_history(run_id, "reward/total")] == expected
    assert rows(tmp_path, "reward/total") == expected
    assert not spool.exists()


def test_two_runs_of_one_process_stay_apart(tmp_path: Path) -> None:
    first, second = (Spool(tmp_path / name / "s.jsonl", [MLFLOW, "wandb"]) for name in "ab")
    one, other = (sink(tmp_path / name, name) for name in "ab")
    first.append(metrics(1, loss=1.0))
    one.deliver(first)
    second.append(metrics(1, loss=5.0))
    second.append({"kind": "status", "status": "FINISHED"})
    assert other.deliver(second) == 2
    first.append(metrics(2, loss=2.0))
    one.deliver(first)
    one.release(first)
    assert rows(tmp_path / "a", "loss") == [(1, 1.0), (2, 2.0)]
    assert rows(tmp_path / "b", "loss") == [(1, 5.0)]
    exits = {
        name: [each.exit.exit_code for each in wandb_records(tmp_path / name / "wandb") if each.HasField("exit")]
        for name in "ab"
    }
    assert exits == {"a": [1], "b": [0]}


def test_unfinished_offline_folder_is_replaced_and_a_finished_one_is_continued(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.jsonl", [MLFLOW, "wandb"])
    spool.append(metrics(1, loss=1.0))
    done = sink(tmp_path)
    done.deliver(spool)
    done.release(spool)
    spool.append(metrics(2, loss=2.0))
    lost = sink(tmp_path)
    lost.deliver(spool)
    # Its process dies here. wandb's helper would lose the row, and this one stores it.
    lost._run.finish()  # pyright: ignore[reportPrivateUsage]
    again = sink(tmp_path)
    again.deliver(spool)
    again.release(spool)
    assert rows(tmp_path, "loss") == [(1, 1.0), (2, 2.0)]
    assert [row["_step"] for row in wandb_rows(tmp_path / "wandb")] == [0, 1]
    assert {record.run.run_id for record in wandb_records(tmp_path / "wandb") if record.HasField("run")} == {"abc"}


def test_status_of_a_stopped_trial_reaches_wandb_from_the_driver(uri: str, tmp_path: Path) -> None:
    record, spool = tmp_path / "run.json", tmp_path / "s.jsonl"
    run_id = start_run(uri, "small", "trial", tags={}, params={}, record=record)
    Spool(spool, [MLFLOW, "wandb"]).append({"run_id": run_id, **metrics(1, loss=1.0)})
    end_run(record, spool, "KILLED", [sink(tmp_path)])
    assert rows(tmp_path, "loss") == [(1, 1.0)]
    assert [each.exit.exit_code for each in wandb_records(tmp_path / "wandb") if each.HasField("exit")] == [0]
    assert not spool.exists()


def test_unreachable_wandb_server_is_a_delivery_error_without_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from srpo_ray.tracking import wandb_sink

    monkeypatch.setattr(wandb_sink, "_CONNECT_TIMEOUT_S", 1.0)
    monkeypatch.setenv("WANDB_BASE_URL", NOWHERE)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    spool = Spool(tmp_path / "s.jsonl", [MLFLOW, "wandb"])
    spool.append(metrics(1, loss=1.0))
    with pytest.raises(DeliveryError) as caught:
        sink(tmp_path, mode="online").deliver(spool)
    assert "127.0.0.1:9" in str(caught.value)
    assert len(spool.read(9, "wandb")) == 1
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if b"0123456789abcdef0123" in path.read_bytes()]
