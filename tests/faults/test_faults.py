"""What a run is worth when processes and nodes go while it trains: the numbers of an undisturbed one."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from srpo_ray.config import RunConfig, apply
from srpo_ray.training.checkpoint import complete_checkpoints, read_checkpoint
from srpo_ray.training.launch import train
from srpo_ray.training.run_folder import RunFolder, read_rows
from srpo_ray.training.storage import Storage
from tests.faults.nodes import Nodes, wait_until
from tests.training.tiny_flux import relative_error

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("nodes")]

UPDATES = 12
REWARD = {"type": "python", "name": "brightness", "target": "tests.training.faulty_rewards:Brightness"}


def run_of(tiny_run: RunConfig, name: str, **changes: Any) -> RunConfig:
    """A run of two workers, one on each trainer node; its reward takes long, so that things can happen in an update."""
    settings = {
        "name": name,
        "training.num_updates": UPDATES,
        "training.num_workers": 2,
        "training.checkpoint_interval": 3,
        "training.resources": {"trainer_slot": 1},
        "rewards.models": [{**REWARD, "arguments": {"seconds": 0.2}}],
        "rewards.pool.num_cpus": 0.1,
        "rewards.pool.resources": {"reward_slot": 1},
        "evaluation.interval": UPDATES,
    }
    return apply(tiny_run, settings | changes)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, nodes: Nodes) -> tuple[RunFolder, RunConfig]:
    """The run that nothing happens to."""
    from srpo_ray.config import load_run
    from tests.conftest import SMALL_WORLD, TINY

    root = tmp_path_factory.mktemp("calm") / "runs"
    config = run_of(load_run([SMALL_WORLD], [f"run_root={root}", *TINY]), "calm")
    return train(config), config


def disturbed(config: RunConfig, disturb: Callable[[RunFolder], None]) -> RunFolder:
    """Train while something happens in another thread; fails if that could not."""
    folder, failures = RunFolder(Path(config.run_root).resolve() / config.name), []

    def act() -> None:
        try:
            disturb(folder)
        except (AssertionError, OSError) as error:
            failures.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    train(config)
    thread.join()
    assert not failures, failures
    return folder


def after(folder: RunFolder, update: int) -> None:
    """Wait until a run has made an update."""
    wait_until(lambda: any(row["step"] >= update for row in read_rows(folder.steps)), f"update {update}")


def starts(folder: RunFolder) -> list[tuple[int, str]]:
    """Where each group of workers began, and how many they were."""
    return [(row["step"], row["message"]) for row in read_rows(folder.events) if row["event"] == "started"]


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    storage = Storage(folder.checkpoints)
    return dict(read_checkpoint(storage, complete_checkpoints(storage)[-1]).weights)


def check_metrics(folder: RunFolder, calm: RunFolder) -> None:
    """Every update is there once, in the rows and in MLflow, with the loss of the undisturbed run."""
    rows, expected = read_rows(folder.steps), read_rows(calm.steps)
    assert [row["step"] for row in rows] == list(range(1, UPDATES + 1))
    client = MlflowClient(f"sqlite:///{folder.path.parent / 'mlflow.db'}")
    run_id = json.loads(folder.tracker_record.read_text())["run_id"]
    logged = [(metric.step, metric.value) for metric in client.get_metric_history(run_id, "loss/denoise")]
    assert [step for step, _ in sorted(logged)] == list(range(1, UPDATES + 1))
    for row, other in zip(rows, expected, strict=False):
        assert row["loss/denoise"] == pytest.approx(other["loss/denoise"], rel=1e-4)


@pytest.mark.parametrize("victim", ["ray::RayTrainWorker", "ray::RewardReplica"])
def test_killed_process_changes_no_number(
    victim: str, tiny_run: RunConfig, nodes: Nodes, calm: tuple[RunFolder, RunConfig]
) -> None:
    def kill(folder: RunFolder) -> None:
        after(folder, 4)
        nodes.kill(victim)

    folder = disturbed(run_of(tiny_run, "killed"), kill)
    assert all(torch.equal(weights(folder)[name], value) for name, value in weights(calm[0]).items())
    check_metrics(folder, calm[0])
    assert starts(folder) == ([(0, "workers: 2"), (3, "workers: 2")] if "Train" in victim else [(0, "workers: 2")])


def test_lost_node_shrinks_the_run_and_a_new_one_lets_it_grow(
    tiny_run: RunConfig, nodes: Nodes, calm: tuple[RunFolder, RunConfig], tmp_path: Path
) -> None:
    slow = tmp_path / "slow"
    changes = {
        "training.num_workers": {"min": 1, "max": 2},
        "training.resize_interval_s": 5,
        "rewards.models": [{**REWARD, "arguments": {"seconds": 0.2, "slow": str(slow)}}],
    }

    def lose_and_return(folder: RunFolder) -> None:
        after(folder, 4)
        nodes.lose_node()
        wait_until(lambda: starts(folder)[-1][1] == "workers: 1", "a start with one worker")
        slow.touch()
        nodes.fill()
        wait_until(lambda: starts(folder)[-1][1] == "workers: 2", "a start with two workers again")
        slow.unlink()

    folder = disturbed(run_of(tiny_run, "shrunk", **changes), lose_and_return)
    nodes.fill()
    check_metrics(folder, calm[0])
    assert [workers for _, workers in starts(folder)] == ["workers: 2", "workers: 1", "workers: 2"]
    assert relative_error(weights(folder), weights(calm[0])) < 1e-6


def test_warned_run_saves_in_time_and_loses_nothing_with_the_node(
    tiny_run: RunConfig, nodes: Nodes, calm: tuple[RunFolder, RunConfig]
) -> None:
    def warn_and_lose(folder: RunFolder) -> None:
        after(folder, 4)
        nodes.warn_of_preemption(seconds=6)
        wait_until(lambda: bool(complete_checkpoints(Storage(folder.checkpoints))), "a checkpoint before its time")
        nodes.lose_node()

    changes = {"training.num_workers": {"min": 1, "max": 2}, "training.checkpoint_interval": 1000}
    folder = disturbed(run_of(tiny_run, "warned", **changes), warn_and_lose)
    nodes.fill()
    saved = next(row["step"] for row in read_rows(folder.events) if row["event"] == "preempted")
    assert saved >= 4
    assert starts(folder) == [(0, "workers: 2"), (saved, "workers: 1")]
    assert relative_error(weights(folder), weights(calm[0])) < 1e-6
    check_metrics(folder, calm[0])
