"""A run to which things happen while it trains, and how it is held against one in peace."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from srpo_ray.config import RunConfig, apply
from srpo_ray.launch.train import train
from srpo_ray.runs.checkpoint import read_checkpoint
from srpo_ray.runs.checkpoint_files import complete_checkpoints
from srpo_ray.runs.folder import RunFolder, read_rows
from srpo_ray.runs.storage import Storage
from tests.helpers.faults.nodes import wait_until

UPDATES = 12
REWARD = {"type": "python", "name": "brightness", "target": "tests.helpers.training.faulty_rewards:Brightness"}


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


def disturbed(config: RunConfig, disturb: Callable[[RunFolder], None]) -> RunFolder:
    """Train while something happens to the run."""
    folder = RunFolder(Path(config.run_root).resolve() / config.name)
    beside(folder, disturb, lambda: train(config))
    return folder


def beside(folder: RunFolder, disturb: Callable[[RunFolder], None], work: Callable[[], object]) -> None:
    """Do some work while something happens to its run in another thread; fails if that could not."""
    failures = []

    def act() -> None:
        try:
            disturb(folder)
        except (AssertionError, OSError) as error:
            failures.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    work()
    thread.join()
    assert not failures, failures


def after(folder: RunFolder, update: int) -> None:
    """Wait until a run has made an update."""
    wait_until(lambda: any(row["update"] >= update for row in read_rows(folder.updates)), f"update {update}")


def starts(folder: RunFolder) -> list[tuple[int, str]]:
    """Where each group of workers began, and how many they were."""
    return [
        (row["update"], row["message"].split(", ")[0]) for row in read_rows(folder.events) if row["event"] == "started"
    ]


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    storage = Storage(folder.checkpoints)
    return dict(read_checkpoint(storage, complete_checkpoints(storage)[-1]).weights)


def check_metrics(folder: RunFolder, calm: RunFolder) -> None:
    """Every update is there once, in the rows and in MLflow, with the loss of the undisturbed run."""
    rows, expected = read_rows(folder.updates), read_rows(calm.updates)
    assert [row["update"] for row in rows] == list(range(1, UPDATES + 1))
    database = next(path for parent in folder.path.parents if (path := parent / "mlflow.db").exists())
    client = MlflowClient(f"sqlite:///{database}")
    run_id = json.loads(folder.tracker_record.read_text())["run_id"]
    logged = [(metric.step, metric.value) for metric in client.get_metric_history(run_id, "loss/denoise")]
    assert [step for step, _ in sorted(logged)] == list(range(1, UPDATES + 1))
    for row, other in zip(rows, expected, strict=False):
        assert row["loss/denoise"] == pytest.approx(other["loss/denoise"], rel=1e-4)
