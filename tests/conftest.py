"""What tests of several packages share: one Ray session, and the small world's run config."""

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from srpo_ray.config import RunConfig, load_run
from srpo_ray.imports import spare_imported

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
ROOT = Path(__file__).parent.parent
SMALL_WORLD = ROOT / "configs" / "small_world.yaml"


def pytest_configure() -> None:
    # A quarter of the time that imports take.
    gc.disable()


def pytest_collection_finish() -> None:
    gc.enable()
    spare_imported()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray session, started as the program itself starts one."""
    from srpo_ray.launch.session import ray_session

    with ray_session(None):
        yield


TINY = [
    "training.num_updates=4",
    "training.batch_size=4",
    "training.checkpoint_interval=2",
    "rollout.num_steps=4",
    "evaluation.num_prompts=4",
    "evaluation.test=null",
    "evaluation.samples_per_prompt=1",
    "evaluation.num_steps=4",
    "evaluation.interval=2",
    "evaluation.gallery_size=2",
]
"""What makes the small world's run small enough for a test."""


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow without runs: to make one takes it many seconds, to copy one none."""
    from srpo_ray.tracking.runs import default_uri

    folder = tmp_path_factory.mktemp("mlflow")
    MlflowClient(default_uri(folder)).search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def tiny_run(tmp_path: Path, empty_mlflow: Path) -> RunConfig:
    """The small world's run, small enough for a test."""
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_mlflow, tmp_path / "runs")
    return load_run([SMALL_WORLD], [f"run_root={tmp_path / 'runs'}", *TINY])
