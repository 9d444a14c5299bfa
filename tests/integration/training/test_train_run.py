"""Whole runs through Ray Train, DeepSpeed, the reward pool and MLflow."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from srpo_ray.config import RunConfig, apply, load_run
from srpo_ray.errors import TrainingError
from srpo_ray.inference.job import SamplingOptions, open_run
from srpo_ray.inference.sample import sample_run
from srpo_ray.launch.train import train
from srpo_ray.runs.checkpoint import read_checkpoint
from srpo_ray.runs.checkpoint_files import checkpoint_name, complete_checkpoints
from srpo_ray.runs.folder import CHECKPOINT_SAVED, RunFolder, read_rows
from srpo_ray.runs.storage import Storage
from tests.conftest import SMALL_WORLD, TINY
from tests.helpers.ray_request import ask_for_nodes, has_nodes, train_run

pytestmark = pytest.mark.usefixtures("ray_cluster")

WORKER = {"training.resources": {"node:__internal_head__": 0.001}}
"""Makes a run that needs no worker of Ray Train have one."""


def with_reward(config: RunConfig, name: str, **arguments: Any) -> RunConfig:
    """The config with one scripted reward in place of the learned ones."""
    reward = {"type": "python", "name": "brightness", "target": "tests.helpers.training.faulty_rewards:Brightness"}
    return apply(
        config,
        {"name": name, "rewards.models": [{**reward, "arguments": arguments}], "rewards.pool.num_cpus": 0.1},
    )


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    storage = Storage(folder.checkpoints)
    return dict(read_checkpoint(storage, complete_checkpoints(storage)[-1]).weights)


def test_run_leaves_rows_images_checkpoints_and_an_mlflow_run(tiny_run: RunConfig) -> None:
    config = apply(tiny_run, {"training.num_workers": 2, "name": "two_workers"})
    folder = train(config)

    assert [row["update"] for row in read_rows(folder.updates)] == [1, 2, 3, 4]
    evaluations = read_rows(folder.evaluations)
    assert [row["update"] for row in evaluations] == [0, 2, 4]
    assert {"evaluator/held_out", "reward/preference", "reward/total", "truth/detail", "image/saturation"} <= set(
        evaluations[0]
    )
    assert Image.open(folder.gallery).size[0] > 128

    client = MlflowClient(f"sqlite:///{Path(config.run_root) / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'srpo_ray'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    logged = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "loss/denoise")}
    assert logged == {row["update"]: pytest.approx(row["loss/denoise"]) for row in read_rows(folder.updates)}
    names = {"reward/preference/inversion", "update/gradient_norm", "step/gradient_scale/denoise", "time/rollout"}
    assert names <= set(run.data.metrics)
    assert run.data.params["training.num_workers"] == "2"
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "images"} <= artifacts

    sheet = sample_run(open_run(folder.path), ["a red circle", "a cat"], options=SamplingOptions(seed=0, num_steps=2))
    assert Image.open(sheet).size[0] > 128


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> RunFolder:
    """The run that nothing happens to."""
    root = tmp_path_factory.mktemp("calm")
    shutil.copy(empty_mlflow, root)
    return train(with_reward(load_run([SMALL_WORLD], [f"run_root={root}", *TINY]), "calm"))


@pytest.mark.long
def test_replica_killed_in_mid_call_changes_no_number(tiny_run: RunConfig, calm: RunFolder, tmp_path: Path) -> None:
    marker = tmp_path / "killed"
    shaken = train(with_reward(tiny_run, "shaken", fault="kill", after=3, marker=str(marker)))

    assert marker.exists()
    assert sum(row["pool/replays"] for row in read_rows(shaken.updates)) >= 1
    for name, expected in weights(calm).items():
        assert torch.equal(weights(shaken)[name], expected)
    assert [row["loss/denoise"] for row in read_rows(shaken.updates)] == [
        row["loss/denoise"] for row in read_rows(calm.updates)
    ]


@pytest.mark.long
def test_reward_that_is_not_finite_stops_the_run(tiny_run: RunConfig) -> None:
    with pytest.raises(TrainingError, match=r"'brightness'.*finite"):
        train(with_reward(tiny_run, "not_finite", fault="nan", after=1))


@pytest.mark.long
def test_full_memory_ends_the_run_at_once_with_its_plan(tiny_run: RunConfig, tmp_path: Path) -> None:
    loads = tmp_path / "loads"
    target = "tests.helpers.training.faulty_rewards:FullMemory"
    reward = {"type": "python", "name": "full", "target": target, "arguments": {"marker": str(loads)}}
    changes = {"name": "full", "rewards.models": [reward], "rewards.in_process": True, "evaluation.held_out": []}
    changes |= WORKER
    with pytest.raises(TrainingError) as error:
        train(apply(tiny_run, changes))
    message = str(error.value)
    assert message.startswith("out of memory: CUDA out of memory. Tried to allocate 20.00 MiB.\n")
    assert "Adam moments" in message
    assert "Traceback" not in message
    assert loads.read_text() == "loaded\n", "the run was started again"


def test_run_stopped_by_its_reward_reports_why_and_resumes_bit_identically(
    tiny_run: RunConfig, calm: RunFolder, tmp_path: Path
) -> None:
    # Two calls with gradient an update: the seventh is in the fourth update, after the checkpoint of the second.
    # The calm run is trained in this process, and a worker's numbers have the same bits.
    config = apply(with_reward(tiny_run, "stopped", fault="raise", after=6, marker=str(tmp_path / "failed")), WORKER)
    with pytest.raises(TrainingError) as error:
        train(config)
    stopped = RunFolder(Path(config.run_root).resolve() / "stopped")
    assert not stopped.finished.exists()
    assert all(
        part in str(error.value) for part in ("'brightness'", "background", "rewards_stopped/0", "the lamp is broken")
    )
    run_id = stopped.tracker_record.read_text()
    # As if its driver had been killed, with nobody left to take back what it asked Ray for.
    earlier = train_run(stopped)
    ask_for_nodes(stopped)
    folder = train(config)

    assert not has_nodes(earlier)
    assert not has_nodes(train_run(folder))
    assert folder.tracker_record.read_text() == run_id
    assert [row["update"] for row in read_rows(folder.updates)] == [1, 2, 3, 4]
    assert [row["update"] for row in read_rows(folder.evaluations)] == [0, 2, 4]
    events = [(row["event"], row["update"]) for row in read_rows(folder.events)]
    assert events == [("started", 0), (CHECKPOINT_SAVED, 2), ("started", 2), (CHECKPOINT_SAVED, 4)]
    client = MlflowClient(f"sqlite:///{Path(config.run_root) / 'mlflow.db'}")
    tracked = client.get_metric_history(json.loads(run_id)["run_id"], "loss/denoise")
    assert [metric.step for metric in tracked] == [1, 2, 3, 4], "an update was tracked twice"
    for name, expected in weights(calm).items():
        assert torch.equal(weights(folder)[name], expected)


@pytest.mark.long
def test_hacking_sign_stops_the_run_and_its_best_checkpoint_is_kept_and_sampled(tiny_run: RunConfig) -> None:
    evaluator = {"type": "python", "name": "evaluator", "target": "tests.helpers.training.faulty_rewards:Evaluate"}
    changes = {
        "algorithm.query": "plain",
        "algorithm.branches": ["denoise"],
        "algorithm.hinge": 2.0,
        "training.optimizer.lr": 1e-4,
        "training.num_updates": 6,
        "training.checkpoint_interval": 3,
        "training.checkpoints_kept": 1,
        "evaluation.held_out": [{**evaluator, "arguments": {"decisions": "0.5 0.7 0.3"}}],
        "evaluation.relative": None,
        "evaluation.hacking": {"action": "stop", "noise": 0},
    }
    folder = train(apply(with_reward(tiny_run, "hacked"), changes))

    assert [row["update"] for row in read_rows(folder.evaluations)] == [0, 2, 4]
    assert [row["update"] for row in read_rows(folder.updates)] == [1, 2, 3, 4]
    result = {"updates": 4, "evaluations": 3, "stopped_by": "reward_hacking", "best_update": 2}
    assert json.loads(folder.finished.read_text()) == result
    assert complete_checkpoints(Storage(folder.checkpoints)) == [2, 3]
    assert (4, "evaluator/evaluator") in [(row["update"], row["metric"]) for row in read_rows(folder.hacking)]
    client = MlflowClient(f"sqlite:///{Path(tiny_run.run_root) / 'mlflow.db'}")
    run_id = json.loads(folder.tracker_record.read_text())["run_id"]
    fired = {metric.step: metric.value for metric in client.get_metric_history(run_id, "hacking/found")}
    assert fired == {0: 0.0, 2: 0.0, 4: 1.0}
    assert "hacking.txt" in {item.path for item in client.list_artifacts(run_id)}

    def sampled() -> bytes:
        out = folder.path / "samples.png"
        return sample_run(
            open_run(folder.path), ["a red circle"], out, options=SamplingOptions(seed=0, num_steps=2)
        ).read_bytes()

    best = sampled()
    folder.finished.unlink()
    assert sampled() != best, "the newest checkpoint draws another image"
    Storage(folder.checkpoints).remove(checkpoint_name(3))
    assert sampled() == best
