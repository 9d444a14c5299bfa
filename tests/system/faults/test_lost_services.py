"""What a run is worth when what it talks to hangs or is away: the numbers of an undisturbed one."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from srpo_ray.cli import main
from srpo_ray.config import RunConfig
from srpo_ray.runs.folder import RunFolder
from tests.helpers.faults.disturbed import after, check_metrics, disturbed, run_of, starts, weights
from tests.helpers.faults.nodes import Nodes
from tests.helpers.tracking.mlflow_server import Server

pytestmark = pytest.mark.usefixtures("nodes")


@pytest.fixture
def server(tiny_run: RunConfig) -> Iterator[Server]:
    """Keeps its runs where a run without a server does."""
    child = Server(Path(tiny_run.run_root))
    child.start()
    yield child
    child.stop()


def check_weights(folder: RunFolder, calm: RunFolder) -> None:
    """No number is another, and the workers were never started again."""
    assert all(torch.equal(weights(folder)[name], value) for name, value in weights(calm).items())
    assert starts(folder) == [(0, "workers: 2")]


def test_hung_replica_is_replaced_and_changes_no_number(tiny_run: RunConfig, nodes: Nodes, calm: RunFolder) -> None:
    def hang(folder: RunFolder) -> None:
        after(folder, 4)
        nodes.send(signal.SIGSTOP, "ray::RewardReplica")

    folder = disturbed(run_of(tiny_run, "hung", **{"rewards.pool.timeout_s": 5}), hang)
    check_weights(folder, calm)
    check_metrics(folder, calm)


def test_mlflow_that_is_away_for_a_while_gets_everything(tiny_run: RunConfig, server: Server, calm: RunFolder) -> None:
    def go_and_return(folder: RunFolder) -> None:
        after(folder, 3)
        server.stop()
        after(folder, 9)
        server.start()

    folder = disturbed(run_of(tiny_run, "away", **{"tracking.uri": server.uri}), go_and_return)
    assert not folder.tracker_spool.exists()
    check_weights(folder, calm)
    check_metrics(folder, calm)


def test_mlflow_that_does_not_come_back_gets_everything_by_replay(
    tiny_run: RunConfig, server: Server, calm: RunFolder
) -> None:
    def go(folder: RunFolder) -> None:
        after(folder, 3)
        server.stop()

    folder = disturbed(run_of(tiny_run, "gone", **{"tracking.uri": server.uri}), go)
    assert folder.tracker_spool.exists()
    check_weights(folder, calm)
    server.start()
    assert main(["replay", str(folder.path)]) == 0
    assert not folder.tracker_spool.exists()
    check_metrics(folder, calm)
