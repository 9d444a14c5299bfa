"""Sweeps whose trials get more and fewer workers as nodes join and leave, against trials of one worker."""

from pathlib import Path
from typing import Any

from srpo_ray.config import ExperimentConfig, RunConfig
from srpo_ray.runs.folder import RunFolder, read_rows
from srpo_ray.search.experiment import run_experiment
from tests.helpers.faults.disturbed import REWARD, after, beside, run_of, starts, weights
from tests.helpers.faults.nodes import Nodes, wait_until
from tests.helpers.training.tiny_flux import relative_error

LR = "training.optimizer.lr"


def sweep(base: RunConfig) -> ExperimentConfig:
    """Two trials with learning rates of their own, as many at a time as the cluster has room for."""
    grid = {LR: [base.training.optimizer.lr, 2 * base.training.optimizer.lr]}
    return ExperimentConfig.model_validate(
        {
            "name": base.name,
            "base": "not read",
            "arms": [{"name": "SRPO", "grid": grid}],
            "seeds": [],
            "max_concurrent_trials": "auto",
        }
    )


def trials(base: RunConfig) -> list[RunFolder]:
    folder = Path(base.run_root).resolve() / base.name / "trials"
    return [RunFolder(folder / f"SRPO_trial_{index}") for index in range(2)]


def test_waiting_trial_starts_on_a_new_node_and_trials_grow_on_the_next_ones_and_shrink_without_them(
    tiny_run: RunConfig, nodes: Nodes, tmp_path: Path
) -> None:
    slow = tmp_path / "slow"
    settings: dict[str, Any] = {
        "training.num_updates": 24,
        "evaluation.interval": 12,
    }
    reward = {"rewards.models": [{**REWARD, "arguments": {"seconds": 0.2, "slow": str(slow)}}]}
    one = run_of(tiny_run, "one_worker", **settings, **{"training.num_workers": 1})
    elastic = {
        "training.num_workers": {"min": 1, "max": 2},
        "training.resize_interval_s": 1,
        # Trials change their size at a checkpoint.
        "training.checkpoint_interval": 1,
        "rewards.pool.num_replicas": 2,
    }
    several = run_of(tiny_run, "elastic", **settings, **reward, **elastic)
    first, second = trials(several)

    def join_and_leave(_: RunFolder) -> None:
        slow.touch()
        after(first, 1)
        assert not starts(second)
        nodes.fill()
        after(second, 1)
        assert [workers for _, workers in starts(first)] == ["workers: 1"]
        nodes.fill(4)
        for trial in (first, second):
            wait_until(lambda trial=trial: starts(trial)[-1][1] == "workers: 2", "a start with two workers")
        nodes.lose_node()
        lost = [lambda trial=trial: starts(trial)[-1][1] == "workers: 1" for trial in (first, second)]
        wait_until(lambda: any(each() for each in lost), "a start with one worker again")
        slow.unlink()

    nodes.fill()
    nodes.lose_node()
    beside(first, join_and_leave, lambda: run_experiment(sweep(several), several, None, "a test", "a test"))
    nodes.lose_node()
    run_experiment(sweep(one), one, None, "a test", "a test")
    for trial, expected in zip((first, second), trials(one), strict=True):
        assert relative_error(weights(trial), weights(expected)) < 1e-6
        rows, others = read_rows(trial.evaluations), read_rows(expected.evaluations)
        assert [row["update"] for row in rows] == [row["update"] for row in others]
