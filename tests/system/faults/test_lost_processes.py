"""What a run is worth when processes and nodes go while it trains: the numbers of an undisturbed one."""

from pathlib import Path

import pytest
import torch

from srpo_ray.config import ExperimentConfig, RunConfig
from srpo_ray.runs.checkpoint_files import complete_checkpoints
from srpo_ray.runs.folder import RunFolder, read_rows
from srpo_ray.runs.storage import Storage
from srpo_ray.search.experiment import run_experiment
from tests.helpers.faults.disturbed import REWARD, after, beside, check_metrics, disturbed, run_of, starts, weights
from tests.helpers.faults.nodes import Nodes, wait_until
from tests.helpers.training.tiny_flux import relative_error

pytestmark = pytest.mark.usefixtures("nodes")


@pytest.mark.parametrize("victim", ["ray::RayTrainWorker", "ray::RewardReplica"])
def test_killed_process_changes_no_number(victim: str, tiny_run: RunConfig, nodes: Nodes, calm: RunFolder) -> None:
    def kill(folder: RunFolder) -> None:
        after(folder, 4)
        nodes.kill(victim)

    folder = disturbed(run_of(tiny_run, "killed"), kill)
    assert all(torch.equal(weights(folder)[name], value) for name, value in weights(calm).items())
    check_metrics(folder, calm)
    assert starts(folder) == ([(0, "workers: 2"), (3, "workers: 2")] if "Train" in victim else [(0, "workers: 2")])


def test_lost_node_shrinks_the_run_and_a_new_one_lets_it_grow(
    tiny_run: RunConfig, nodes: Nodes, calm: RunFolder, tmp_path: Path
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
    check_metrics(folder, calm)
    assert [workers for _, workers in starts(folder)] == ["workers: 2", "workers: 1", "workers: 2"]
    assert relative_error(weights(folder), weights(calm)) < 1e-6


def test_warned_run_saves_in_time_and_loses_nothing_with_the_node(
    tiny_run: RunConfig, nodes: Nodes, calm: RunFolder
) -> None:
    def warn_and_lose(folder: RunFolder) -> None:
        after(folder, 4)
        nodes.warn_of_preemption(seconds=6)
        wait_until(lambda: bool(complete_checkpoints(Storage(folder.checkpoints))), "a checkpoint before its time")
        nodes.lose_node()

    changes = {"training.num_workers": {"min": 1, "max": 2}, "training.checkpoint_interval": 1000}
    folder = disturbed(run_of(tiny_run, "warned", **changes), warn_and_lose)
    nodes.fill()
    saved = next(row["update"] for row in read_rows(folder.events) if row["event"] == "preempted")
    assert saved >= 4
    assert starts(folder) == [(0, "workers: 2"), (saved, "workers: 1")]
    assert relative_error(weights(folder), weights(calm)) < 1e-6
    check_metrics(folder, calm)


def test_trial_whose_trainer_nodes_all_go_waits_for_others_and_changes_no_number(
    tiny_run: RunConfig, nodes: Nodes, calm: RunFolder
) -> None:
    base = run_of(tiny_run, "searched")
    lr = "training.optimizer.lr"
    experiment = ExperimentConfig.model_validate(
        {
            "name": "sweep",
            "base": "not read",
            "arms": [{"name": "SRPO", "space": {lr: {"choice": [base.training.optimizer.lr]}}}],
            "seeds": [],
            "search": {"num_samples": 1},
            "max_concurrent_trials": 1,
        }
    )

    def lose_all_and_return(folder: RunFolder) -> None:
        after(folder, 4)
        nodes.lose_node()
        nodes.lose_node()
        nodes.fill()

    trial = RunFolder(Path(base.run_root).resolve() / "sweep" / "trials" / "SRPO_trial_0")
    beside(trial, lose_all_and_return, lambda: run_experiment(experiment, base, None, "a test", "a test"))
    assert starts(trial) == [(0, "workers: 2"), (3, "workers: 2")]
    assert all(torch.equal(weights(trial)[name], value) for name, value in weights(calm).items())
    check_metrics(trial, calm)
