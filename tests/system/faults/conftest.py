"""A Ray of several nodes on this machine, whose processes and nodes tests take away, and a run on it in peace."""

import os
import uuid
from collections.abc import Iterator

import pytest

from srpo_ray.config import load_run
from srpo_ray.launch.train import train
from srpo_ray.runs.folder import RunFolder
from tests.conftest import SMALL_WORLD, TINY
from tests.helpers.cluster.fixtures import server as server
from tests.helpers.faults.disturbed import run_of
from tests.helpers.faults.nodes import Nodes


@pytest.fixture(scope="session")
def nodes() -> Iterator[Nodes]:
    """Two trainer nodes, and a head with the reward pool and the driver."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    cluster = Nodes(mark=uuid.uuid4().hex)
    try:
        cluster.fill()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory, nodes: Nodes) -> RunFolder:
    """The run that nothing happens to."""
    root = tmp_path_factory.mktemp("calm") / "runs"
    config = run_of(load_run([SMALL_WORLD], [f"run_root={root}", *TINY]), "calm")
    return train(config)
