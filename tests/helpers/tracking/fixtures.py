import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from srpo_ray.tracking.client import connect
from srpo_ray.tracking.runs import default_uri
from tests.helpers.tracking.mlflow_server import Server

if TYPE_CHECKING:
    from mlflow import MlflowClient


@pytest.fixture
def uri(empty_mlflow: Path, tmp_path: Path) -> str:
    """A separate sqlite database for the test."""
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    return default_uri(tmp_path)


@pytest.fixture
def client(uri: str) -> "MlflowClient":
    return connect(uri)


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
