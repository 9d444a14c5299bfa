import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests

from srpo_ray.tracking.connection import connect
from srpo_ray.tracking.run import default_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs, made once because its migrations take seconds."""
    root = tmp_path_factory.mktemp("empty")
    connect(default_uri(root)).search_experiments()
    return root / "mlflow.db"


@pytest.fixture
def uri(empty_database: Path, tmp_path: Path) -> str:
    """A sqlite database of the test's own."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return default_uri(tmp_path)


@pytest.fixture
def client(uri: str) -> "MlflowClient":
    return connect(uri)


class Server:
    """A `mlflow server` child process on loopback that can be stopped and started again."""

    def __init__(self, root: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._root = root
        self._process: subprocess.Popen[bytes] | None = None
        self.uri = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", default_uri(self._root)]
        command += ["--artifacts-destination", str(self._root / "artifacts")]
        with (self._root / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 120
        while not self._answers():
            assert time.monotonic() < deadline, (self._root / "server.log").read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.uri}/health", timeout=1).ok
        except requests.RequestException:
            return False


@pytest.fixture
def server(uri: str, tmp_path: Path) -> Iterator[Server]:
    assert uri == default_uri(tmp_path)
    child = Server(tmp_path)
    child.start()
    yield child
    child.stop()


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Wait for a condition, at most 60 s."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    return wait
