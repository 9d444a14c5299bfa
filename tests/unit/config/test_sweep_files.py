"""Sweep files of `configs/sweep`: valid trials that fit the GPUs and the nodes that the files name."""

from pathlib import Path

import pytest

from srpo_ray.config import ExperimentConfig, RunConfig, apply, load_experiment
from srpo_ray.config.count import largest
from srpo_ray.launch.capacity import fitting_replicas
from srpo_ray.planning.hardware import GIB, GPUS, Hardware
from srpo_ray.planning.plan import make_plan
from srpo_ray.search.concurrency import Nodes, fitting_workers, run_needs
from tests.conftest import ROOT
from tests.helpers.small_world_sweep import small_world_sweep
from tests.unit.test_cluster import types_of

SWEEPS = sorted((ROOT / "configs" / "sweep").glob("*.yaml"))
GPU = {"flux_lora": "A100-80GB", "flux_lora_cluster": "A100-80GB", "sd35_medium_lora": "L40S"}
"""The GPU with the least memory that a file's header can mean."""
REWARD_GPU = {**GPU, "flux_lora_cluster": "L40S"}
UNKNOWN = 2.5
"""GiB of ImageReward for each replica, which the planner does not know: 1.8 GB of weights, and activations."""


def loaded(path: Path) -> tuple[ExperimentConfig, RunConfig]:
    """The sweep and its base config. Loading checks example trials, each final run and each ablation."""
    return load_experiment(path)


def test_every_sweep_file_is_tested() -> None:
    assert {path.stem for path in SWEEPS} == set(GPU)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_trials_of_every_sweep_file_are_valid_and_judged_by_what_they_do_not_train_on(path: Path) -> None:
    sweep, base = loaded(path)
    assert {"algorithm.control_words", "algorithm.timestep_window", "algorithm.interpolation_strength"} <= set(
        sweep.arms[0].space
    )
    assert {"training.optimizer.lr", "rollout.reuse"} <= set(sweep.arms[0].space)
    files = [base.data.prompts, base.evaluation.prompts, base.evaluation.test and base.evaluation.test.prompts]
    assert files == ["prompts/train.txt", "prompts/validation.txt", "prompts/test.txt"]
    evaluated = {f"evaluator/{model.name}" for model in base.evaluation.held_out} | {"image/diversity"}
    assert {sweep.objective, *sweep.max_fall} == evaluated
    # Diversity is measured between the images of a prompt.
    assert base.evaluation.samples_per_prompt > 1
    # A trial is evaluated where the scheduler may stop it.
    assert sweep.search.scheduler.grace_updates % base.evaluation.interval == 0


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_largest_trial_of_every_sweep_file_fits_its_gpu(path: Path) -> None:
    sweep, base = loaded(path)
    # The windows, words and rates of the space change no memory.
    largest_values = {name: values for name, values in LARGEST.items() if name in sweep.arms[0].space}
    plan = make_plan(apply(base, largest_values), Hardware(gpu=GPU[path.stem]))
    trainer, rewards = plan.gpus
    assert trainer.peak <= GPUS[GPU[path.stem]].memory_gib * GIB
    unknown = UNKNOWN * GIB / base.rewards.pool.num_gpus
    assert rewards.peak + unknown <= GPUS[REWARD_GPU[path.stem]].memory_gib * GIB
    assert [note for note in plan.notes if "image_reward" not in note and "num_replicas" not in note] == []


LARGEST = {"rollout.reuse": 4, "algorithm.guidance_scale": 4.5}


@pytest.mark.parametrize("path", [path for path in SWEEPS if "cluster" not in path.stem], ids=lambda path: path.stem)
def test_trials_and_rewards_of_a_node_use_its_eight_gpus(path: Path) -> None:
    sweep, base = loaded(path)
    assert sweep.max_concurrent_trials == "auto"
    node = Nodes({"CPU": 192, "GPU": 8}, {}, 1)
    assert fitting_workers(run_needs([base], 99), [node]) == 7
    pool = base.rewards.pool
    assert 7 * base.training.num_gpus + largest(pool.num_replicas) * pool.num_gpus == 8


def test_trials_and_rewards_of_the_cluster_fill_the_node_types_of_cluster_yaml() -> None:
    sweep, base = loaded(ROOT / "configs" / "sweep" / "flux_lora_cluster.yaml")
    types = types_of("cluster.yaml")
    training, pool = base.training, base.rewards.pool
    # One trainer node is on demand and three are spot, as the file's header says of both kinds.
    nodes = [Nodes(types["trainer"], None, 4), Nodes(types["reward"], None, 4)]
    assert sweep.max_concurrent_trials == "auto"
    workers, replicas = 8 * training.min_workers, largest(pool.num_replicas)
    assert fitting_workers(run_needs([base], 99), nodes) == workers
    assert 4 * fitting_replicas(training.worker_resources, types["trainer"]) == workers
    assert 4 * fitting_replicas(pool.replica_resources, types["reward"]) == replicas


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_small_world_changes_keep_the_search_of_every_sweep_file(path: Path) -> None:
    real, _ = loaded(path)
    small, base = load_experiment(path, small_world_sweep())
    assert base.model.path == "small_world"
    assert base.training.num_gpus == base.rewards.pool.num_gpus == 0
    assert (small.arms, small.objective, small.max_fall) == (real.arms, real.objective, real.max_fall)
