"""A GPU for each trainer worker, if Ray gives out fractions of GPUs."""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray import cloudpickle
from ray.train.torch.config import _TorchBackend

from srpo_ray.config import load_run
from srpo_ray.launch import train_backend
from srpo_ray.launch.local_ray import on_loopback
from srpo_ray.launch.train_backend import NodeNetwork, NodeNetworkBackend, reserved_gpus
from srpo_ray.rewards import local
from srpo_ray.runs.folder import RunFolder
from srpo_ray.training import loop
from srpo_ray.training.gpus import require_own_gpu, shared_gpu
from srpo_ray.training.worker import train_worker
from srpo_ray.training.worker_arguments import WorkerArguments
from tests.conftest import ROOT, SMALL_WORLD

RECIPES = ROOT / "configs" / "recipes"
BESIDE = [RECIPES / "flux_lora_80gb.yaml", RECIPES / "rewards_same_gpu.yaml"]
EIGHT = ["training.num_workers=8", "training.micro_batch_size=1"]


def test_gpu_of_two_workers_is_named_with_its_host_and_ranks() -> None:
    workers = [("10.0.0.1", ("0",)), ("10.0.0.1", ("1",)), ("10.0.0.2", ("0",)), ("10.0.0.1", ("1",))]
    assert "got GPU 1 of 10.0.0.1 for workers 1, 3;" in shared_gpu(workers)


def test_equal_ids_on_two_hosts_are_two_gpus_and_workers_on_the_cpu_share_none() -> None:
    assert not shared_gpu([("10.0.0.1", ("0",)), ("10.0.0.2", ("0",))])
    assert not shared_gpu([("10.0.0.1", ())] * 4)


class Group:
    """Workers of Ray Train as functions of this process. Each has reserved the GPU of its entry."""

    def __init__(self, gpus: list[str]) -> None:
        self.gpus = gpus

    def execute(self, function: Any, *arguments: Any) -> list[Any]:
        if function is reserved_gpus:
            return [("10.0.0.1", (gpu,)) for gpu in self.gpus]
        return [cloudpickle.loads(cloudpickle.dumps(function))(*arguments) for _ in self.gpus]


def test_workers_on_a_shared_gpu_stop_before_they_load_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(train_backend, "choose_interface", lambda: None)
    monkeypatch.setattr(_TorchBackend, "on_start", lambda *_: None)
    NodeNetworkBackend().on_start(Group(["0", "1"]), NodeNetwork())
    require_own_gpu()
    NodeNetworkBackend().on_start(Group(["0", "1", "1"]), NodeNetwork())
    with pytest.raises(ValueError, match=r"GPU 1 of 10\.0\.0\.1 for workers 1, 2"):
        require_own_gpu()


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["rewards.pool.num_replicas=4"],
        ["rewards.pool.num_replicas={min: 1, max: 8}"],
        # Two replicas fit one GPU, and two trainers another.
        ["rewards.pool.num_replicas=8", "rewards.pool.num_gpus=0.5"],
        # Two trainers fit beside a replica.
        ["rewards.pool.num_replicas=8", "training.num_gpus=0.2"],
        # No trainer fits beside a replica.
        ["rewards.pool.num_replicas=8", "rewards.pool.num_gpus=0.7"],
        ["rewards.pool.num_replicas=8", "rewards.pool.resources={reward_slot: 1}"],
        ["rewards.pool.num_replicas=8", "rewards.in_process=true"],
    ],
    ids=str,
)
def test_workers_that_ray_may_place_two_to_a_gpu_are_refused(overrides: list[str]) -> None:
    with pytest.raises(ValueError, match=r"expected training.num_gpus above 0.5 with 8 workers, .*num_replicas=8"):
        load_run(BESIDE, [*EIGHT, *overrides])


@pytest.mark.parametrize(
    "overrides",
    [
        [*EIGHT, "rewards.pool.num_replicas=8"],
        [*EIGHT, "training.num_gpus=0.6", "rewards.pool.num_gpus=0.4"],
        [*EIGHT, "training.num_gpus=1"],
        ["training.num_workers=1"],
    ],
    ids=str,
)
def test_workers_that_ray_can_only_place_on_gpus_of_their_own_are_accepted(overrides: list[str]) -> None:
    load_run(BESIDE, overrides)


@pytest.mark.long
def test_ray_gives_each_trainer_a_gpu_only_beside_as_many_replicas() -> None:
    """The placement that the config's check predicts, with GPUs that Ray only counts."""
    config = load_run(BESIDE)
    with on_loopback():
        ray.init(num_cpus=1, num_gpus=8, include_dashboard=False, log_to_driver=False)
    try:
        for replicas in (8, 1):
            held = _places(replicas, config.rewards.pool.num_gpus)
            workers = _places(8, config.training.num_gpus)
            found: list[Any] = [ray.get(worker.gpus.remote()) for worker in workers]
            assert (len({gpus for _, gpus in found}) == 8) == (replicas == 8)
            assert (shared_gpu(found) == "") == (replicas == 8)
            for actor in (*held, *workers):
                ray.kill(actor)
            while ray.available_resources().get("GPU") != 8:
                time.sleep(0.1)
    finally:
        ray.shutdown()


def _places(count: int, num_gpus: float) -> list[Any]:
    """Actors that reserve a fraction of a GPU each, one after the other."""

    # A local class travels by value, so that the processes need not import this module.
    class Worker:
        def gpus(self) -> tuple[str, tuple[str, ...]]:
            return "host", tuple(ray.get_runtime_context().get_accelerator_ids()["GPU"])

    kind: Any = ray.remote(Worker)
    actors = [kind.options(num_cpus=0, num_gpus=num_gpus).remote() for _ in range(count)]
    ray.get([actor.gpus.remote() for actor in actors])
    return actors


def test_worker_asks_for_its_gpu_before_it_reads_a_checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(loop, "find_checkpoint", lambda *_: pytest.fail("a checkpoint was read"))
    config = load_run([SMALL_WORLD], ["training.num_gpus=1"])
    (tmp_path / "config.yaml").write_text("")
    assert RunFolder(tmp_path).config.exists()
    with pytest.raises(ValueError, match=r"training.num_gpus: expected a GPU that torch can use"):
        train_worker({"arguments": WorkerArguments(config, str(tmp_path), None, "", "")})


def test_rewards_in_process_are_loaded_on_the_device_of_the_trainer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = load_run([SMALL_WORLD], ["rewards.in_process=true"])
    devices: list[str] = []
    monkeypatch.setattr(local, "build_rewards", lambda _, device: devices.append(device) or {})
    monkeypatch.setattr(loop, "_prepare_process", lambda _: "cuda:3")
    monkeypatch.setattr(loop, "find_checkpoint", lambda *_: None)
    (tmp_path / "config.yaml").write_text("")
    with suppress(ValueError):
        train_worker({"arguments": WorkerArguments(config, str(tmp_path), None, "", "")})
    assert devices == ["cuda:3"]
