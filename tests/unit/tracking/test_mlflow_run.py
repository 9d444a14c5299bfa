import json
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy.engine import make_url

from srpo_ray.tracking import runs as run_module
from srpo_ray.tracking.client import allowed_name, connect, sqlite_file
from srpo_ray.tracking.runs import default_uri, end_run, flatten, git_commit, log_inputs, start_run
from srpo_ray.tracking.tracker import Tracker

if TYPE_CHECKING:
    from mlflow import MlflowClient


def test_importing_tracking_does_not_import_mlflow():
    code = "import sys, srpo_ray.tracking.runs, srpo_ray.tracking.tracker; assert 'mlflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_packages_for_databases_are_imported_before_the_lock_of_the_database_and_only_for_one(tmp_path: Path):
    code = (
        "import sys\n"
        "from contextlib import contextmanager\n"
        "from srpo_ray.tracking import client\n"
        "@contextmanager\n"
        "def locked(database):\n"
        "    print('sqlalchemy' in sys.modules)\n"
        "    yield\n"
        "client._one_process_at_a_time = locked\n"
        "client.connect('http://127.0.0.1:9')\n"
        f"client.connect('sqlite:///{tmp_path}/runs.db')\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "True"]


def test_a_trial_is_a_child_of_the_sweep(uri: str, client: "MlflowClient", tmp_path: Path):
    sweep = start_run(uri, "small", "sweep", tags={}, params={}, record=tmp_path / "sweep.json")
    trial = start_run(
        uri,
        "small",
        "trial_0",
        parent_run_id=sweep,
        tags={"commit": "abc"},
        params=flatten({"algorithm": {"hinge": 0.7}}),
        record=tmp_path / "t0" / "mlflow.json",
    )
    data = client.get_run(trial).data
    assert data.tags["mlflow.parentRunId"] == sweep
    assert data.tags["commit"] == "abc"
    assert data.params == {"algorithm.hinge": "0.7"}
    assert json.loads((tmp_path / "t0" / "mlflow.json").read_text())["run_id"] == trial


def test_a_recorded_run_continues(uri: str, client: "MlflowClient", tmp_path: Path):
    record = tmp_path / "mlflow.json"
    run_id = start_run(uri, "small", "trial", tags={}, params={"lr": "1"}, record=record)
    client.set_terminated(run_id, "FAILED")
    assert start_run(uri, "small", "trial", tags={}, params={"lr": "2"}, record=record) == run_id
    run = client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert run.data.params == {"lr": "1"}


def test_a_record_of_another_store_is_refused(uri: str, tmp_path: Path):
    record = tmp_path / "mlflow.json"
    record.write_text(json.dumps({"run_id": "a", "uri": "http://elsewhere:5000", "experiment": "small"}))
    with pytest.raises(ValueError, match="http://elsewhere:5000"):
        start_run(uri, "small", "trial", tags={}, params={}, record=record)


def test_a_deleted_run_is_replaced(uri: str, tmp_path: Path):
    record = tmp_path / "mlflow.json"
    record.write_text(json.dumps({"run_id": "0" * 32, "uri": uri, "experiment": "small"}))
    run_id = start_run(uri, "small", "trial", tags={}, params={}, record=record)
    assert json.loads(record.read_text())["run_id"] == run_id != "0" * 32


def test_an_unreachable_server_is_named_with_a_cure(tmp_path: Path):
    with pytest.raises(ConnectionError, match=r"127.0.0.1:9.*tracking\.uri"):
        start_run("http://127.0.0.1:9", "e", "n", tags={}, params={}, record=tmp_path / "r.json")


def test_long_and_many_params_fit_mlflow(uri: str, client: "MlflowClient", tmp_path: Path):
    params = {f"section.key_{number}": "x" * 9000 for number in range(250)} | {"words.a:b(c)": "1"}
    run_id = start_run(uri, "small", "trial", tags={"t": "y" * 9000}, params=params, record=tmp_path / "r.json")
    stored = client.get_run(run_id).data.params
    assert len(stored) == 251
    assert stored["section.key_7"] == "x" * 6000
    assert [key for key in stored if re.fullmatch(r"words\.a_b_c_-[0-9a-f]{8}", key)]


def test_artifacts_are_kept_beside_a_sqlite_file(uri: str, client: "MlflowClient", tmp_path: Path):
    run_id = start_run(uri, "small", "trial", tags={}, params={}, record=tmp_path / "r.json")
    client.log_text(run_id, "hello", "note.txt")
    assert [path.read_text() for path in (tmp_path / "artifacts").rglob("note.txt")] == ["hello"]


@pytest.mark.parametrize(
    "name",
    [
        "odd #% dir",
        "läufe",
        "q'u\"o;t&e",
        "细节 😀",
        "100 %2",
        "a:b",
        "back\\slash",
        "$HOME",
    ],
)
def test_runs_and_artifacts_are_kept_in_a_folder_of_any_name(name: str, empty_mlflow: Path, tmp_path: Path):
    root = tmp_path / name
    root.mkdir()
    shutil.copy(empty_mlflow, root / "mlflow.db")
    uri = default_uri(root)
    run_id = start_run(uri, "small", name, tags={}, params={"run_root": name}, record=root / "r.json")
    connect(uri).log_text(run_id, "hello", "note.txt")
    assert [path.read_text() for path in (root / "artifacts").rglob("note.txt")] == ["hello"]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with sqlite3.connect(root / "mlflow.db") as database:
        assert list(database.execute("select name from runs")) == [(name,)]
    assert sqlite_file(uri) == root / "mlflow.db"


@pytest.mark.parametrize("name", ["why?", "${HOME}", "a%20b", "100%25", "new\nline"])
def test_folder_that_a_sqlite_address_cannot_name_is_refused(name: str, tmp_path: Path):
    with pytest.raises(
        ValueError, match=r"expected a path that is valid in the URI of a sqlite file, got '/.*run_root"
    ):
        default_uri(tmp_path / name)


def test_sqlite_address_is_read_as_the_database_driver_reads_it():
    assert sqlite_file("sqlite:////tmp/a%20b/x.db?timeout=5") == Path("/tmp/a b/x.db")
    assert make_url("sqlite:////tmp/a%20b/x.db?timeout=5").database == "/tmp/a b/x.db"


NAMES = [
    *("细节", "鲜艳", "a+b", "a:b", "a_b", "😀", "😃", "a/b", "a//b", "a/../b", "../b", "..", ".", "", "/", "a/", " a"),
    *("x" * 250, "x" * 251, "x" * 252, "ж" * 125, "ж" * 126, "ж" * 300, "हिन्दी", "e\u0301", "\u00e9", "a\nb", "a\tb"),
]


def test_names_of_any_script_stay_apart_as_params_and_as_metrics(uri: str, client: "MlflowClient", tmp_path: Path):
    params = {name: str(index) for index, name in enumerate(NAMES)}
    params |= {f"word_sets.{name}.positive": "p" for name in NAMES}
    run_id = start_run(uri, "small", "trial", tags={}, params=params, record=tmp_path / "r.json")
    stored = client.get_run(run_id).data.params
    assert sorted(stored.values()) == sorted(params.values())
    assert stored["细节"] == "0"
    assert {len(key.encode()) <= 250 for key in stored} == {True}

    tracker = Tracker(uri, run_id, tmp_path / "s.jsonl")
    for name, value in params.items():
        if value.isdigit():
            tracker.log_metrics({name: float(value)}, 0)
    assert tracker.close("FINISHED", timeout_s=90)
    metrics = client.get_run(run_id).data.metrics
    assert metrics == {key: float(value) for key, value in stored.items() if value.isdigit()}


def test_key_of_a_name_is_the_same_in_every_process():
    # The hash is that of `printf a+b | sha256sum`.
    assert allowed_name("a+b") == "a_b-300273da"
    assert allowed_name("evaluator/held_out") == "evaluator/held_out"


def test_run_that_the_store_refuses_is_ended_without_a_connection_error(
    uri: str, client: "MlflowClient", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(run_module, "allowed_name", lambda name: name)
    with pytest.raises(
        ValueError, match=r"expected names and values that MLflow accepts, got a refusal .*a\+b"
    ) as caught:
        start_run(uri, "small", "trial", tags={}, params={"a+b": "1"}, record=tmp_path / "r.json")
    assert "start it" not in str(caught.value)
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert run.info.status == "FAILED"
    assert not (tmp_path / "r.json").exists()


def test_store_that_fails_while_a_run_is_opened_is_named(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from mlflow import MlflowClient

    def gone(*_: object, **__: object) -> None:
        raise ConnectionResetError("the server is gone")

    monkeypatch.setattr(MlflowClient, "log_batch", gone)
    monkeypatch.setattr(MlflowClient, "set_terminated", gone)
    with pytest.raises(ConnectionError, match=r"expected an MLflow server or database at .*the server is gone"):
        start_run(uri, "small", "trial", tags={}, params={"a": "1"}, record=tmp_path / "r.json")


def test_default_uri_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert default_uri(Path("runs")) == f"sqlite:///{tmp_path}/runs/mlflow.db"


def test_flatten_uses_the_paths_of_overrides():
    config = {"a": {"b": [1, 2], "c": {"d": None, "e": {}}}, "f": "text", "g": True, "p": Path("x")}
    assert flatten(config) == {
        "a.b": "[1, 2]",
        "a.c.d": "null",
        "a.c.e": "{}",
        "f": "text",
        "g": "true",
        "p": '"x"',
    }


def test_prompts_and_images_are_inputs_whose_digest_follows_their_content(
    uri: str, client: "MlflowClient", tmp_path: Path
):
    inputs = {
        "data.prompts": {"prompts.txt": {"prompts": "3 sha256 abc"}},
        "data.images": {"images/*": {}},
        "evaluation.prompts": {"small_world:validation": {"first 2 prompts": "2 sha256 def"}},
        "model.path": {"flux": {"transformer": "hash"}},
    }
    changed = {**inputs, "data.prompts": {"prompts.txt": {"prompts": "3 sha256 xyz"}}}
    found = []
    for name, each in (("first", inputs), ("second", changed)):
        run_id = start_run(uri, "small", name, tags={}, params={}, record=tmp_path / f"{name}.json")
        log_inputs(uri, run_id, each)
        log_inputs(uri, run_id, each)
        stored = client.get_run(run_id).inputs
        assert stored
        found.append({entry.tags[0].value: entry.dataset for entry in stored.dataset_inputs})
    first, second = found
    assert set(first) == {"data.prompts", "evaluation.prompts"}
    assert first["data.prompts"].name == "prompts.txt"
    assert "3 sha256 abc" in (first["data.prompts"].profile or "")
    assert first["data.prompts"].digest != second["data.prompts"].digest
    assert first["evaluation.prompts"].digest == second["evaluation.prompts"].digest


def test_server_without_inputs_gives_a_warning(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND

    def absent(*_: object, **__: object) -> None:
        raise MlflowException("no such endpoint", error_code=ENDPOINT_NOT_FOUND)

    run_id = start_run(uri, "small", "trial", tags={}, params={}, record=tmp_path / "r.json")
    monkeypatch.setattr(MlflowClient, "log_inputs", absent)
    log_inputs(uri, run_id, {"data.prompts": {"p.txt": {"prompts": "1 sha256 a"}}})
    assert "did not take the hashes" in caplog.text


def test_git_commit_distinguishes_clean_from_dirty(tmp_path: Path):
    assert git_commit(tmp_path) is None
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    (tmp_path / "f").write_text("1")
    for command in (["init", "-q"], ["add", "f"], [*identity, "commit", "-q", "-m", "m"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    clean = git_commit(tmp_path)
    assert clean is not None
    assert len(clean) == 40
    (tmp_path / "f").write_text("2")
    assert git_commit(tmp_path) == f"{clean}-dirty"


def test_ending_a_dead_run_sends_its_spool_and_sets_its_status(uri: str, client: "MlflowClient", tmp_path: Path):
    record, spool = tmp_path / "run.json", tmp_path / "s.jsonl"
    end_run(record, spool, "KILLED")
    run_id = start_run(uri, "small", "trial", tags={}, params={}, record=record)
    left = {"run_id": run_id, "kind": "metrics", "values": {"a": 1.5}, "step": 3, "time_ms": 1}
    spool.write_text(json.dumps(left) + "\n")
    end_run(record, spool, "KILLED")
    run = client.get_run(run_id)
    assert run.info.status == "KILLED"
    assert run.data.metrics == {"a": 1.5}
    assert not spool.exists()
