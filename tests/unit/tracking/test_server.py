"""Probe of an MLflow server before Ray starts, against sockets that accept, refuse or stay silent."""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from srpo_ray.config import load_experiment, load_run
from srpo_ray.launch.preflight import check_inputs
from srpo_ray.launch.train import train
from srpo_ray.search.experiment import run_experiment
from srpo_ray.tracking.server import check_database, require_server
from tests.conftest import ROOT, SMALL_WORLD


class _Refusing(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(401)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    """A server that refuses every request."""
    found = HTTPServer(("127.0.0.1", 0), _Refusing)
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.fixture
def closed_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize("uri", ["sqlite:////tmp/mlflow.db", "file:///tmp/runs"])
def test_store_without_a_server_passes(uri: str) -> None:
    require_server(uri)


_CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN")


def test_server_that_asks_for_credentials_is_refused_without_any(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in _CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"tracking\.uri: expected credentials .* MLFLOW_TRACKING_USERNAME and"):
        require_server(server)


@pytest.mark.parametrize("given", [*_CREDENTIALS, "address", "file"])
def test_server_that_refuses_a_request_without_the_credentials_that_mlflow_sends_is_there(
    given: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    if given in _CREDENTIALS:
        monkeypatch.setenv(given, "geheim")
    if given == "file":
        (tmp_path / ".mlflow").mkdir()
        (tmp_path / ".mlflow" / "credentials").write_text("[mlflow]\n")
    require_server(server.replace("http://", "http://me:geheim@") if given == "address" else server)


@pytest.mark.parametrize("uri", ["databricks", "databricks://team"])
def test_databricks_is_refused_without_credentials_and_passes_with_any_that_mlflow_may_use(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("DATABRICKS_")]:
        monkeypatch.delenv(name)
    with pytest.raises(ValueError, match=rf"tracking\.uri: expected credentials for {uri}, got no DATABRICKS_HOST"):
        require_server(uri)
    with pytest.raises(MlflowException, match="credential"):
        MlflowClient(uri).search_experiments()
    monkeypatch.setenv("DATABRICKS_HOST", "https://example.com")
    require_server(uri)
    monkeypatch.delenv("DATABRICKS_HOST")
    (tmp_path / ".databrickscfg").write_text("[DEFAULT]\nhost = https://example.com\n")
    require_server(uri)


@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "mssql", "postgresql+pg8000"])
def test_database_without_its_package_is_refused_with_the_inputs(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRPO_TEST_PASSWORD", "geheim")
    for package in ("psycopg2", "MySQLdb", "pyodbc", "pg8000"):
        # Python's import then fails as for a package that is not installed.
        monkeypatch.setitem(sys.modules, package, None)
    config = load_run([SMALL_WORLD], [f"tracking.uri='{scheme}://me:${{SRPO_TEST_PASSWORD}}@host/runs'"])
    with pytest.raises(ValueError, match=r"tracking\.uri: expected the package of the database's driver") as found:
        check_inputs(config)
    assert "geheim" not in str(found.value)


def test_database_with_its_package_passes_and_an_unknown_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymysql", ModuleType("pymysql"))
    check_database("mysql+pymysql://me:geheim@host/runs")
    with pytest.raises(ValueError, match=r"tracking\.uri: expected the address of a database .*\+nothing") as found:
        check_database("postgresql+nothing://me@host/runs")
    assert "correct it" in str(found.value)


def test_server_that_is_slow_to_answer_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srpo_ray.tracking.server.PROBE_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        require_server(f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_missing_server_is_one_message_without_the_credentials(
    closed_port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRPO_TEST_PASSWORD", "hunter2")
    uri = closed_port.replace("http://", "http://me:${SRPO_TEST_PASSWORD}@")
    start = time.monotonic()
    with pytest.raises(
        ConnectionError, match=r"expected an MLflow server at .*; start it, or set tracking\.uri"
    ) as found:
        require_server(uri)
    assert time.monotonic() - start < 10
    assert "hunter2" not in str(found.value)


def test_invalid_address_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tracking\.uri: expected the address of an MLflow server"):
        require_server("http://")


def test_run_and_experiment_end_before_they_make_a_folder(closed_port: str, tmp_path: Path) -> None:
    given = [f"run_root={tmp_path / 'runs'}", f"tracking.uri={closed_port}"]
    with pytest.raises(ConnectionError, match="expected an MLflow server"):
        train(load_run([SMALL_WORLD], given))
    sweep = ROOT / "configs" / "experiments" / "small_world_sweep.yaml"
    with pytest.raises(ConnectionError, match="expected an MLflow server"):
        run_experiment(*load_experiment(sweep, given), None, "command", "resume")
    assert not (tmp_path / "runs").exists()


def test_variable_of_the_address_that_is_not_set_is_refused_with_the_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_run([SMALL_WORLD], ["tracking.uri='https://${SRPO_TEST_USER}@mlflow.example'"])
    monkeypatch.delenv("SRPO_TEST_USER", raising=False)
    with pytest.raises(ValueError, match="expected the environment variable SRPO_TEST_USER"):
        check_inputs(config)
    monkeypatch.setenv("SRPO_TEST_USER", "me")
    check_inputs(config)
