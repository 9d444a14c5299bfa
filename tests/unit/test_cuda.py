"""Check of the GPU that Ray has reserved for a process."""

from pathlib import Path

import pytest
import torch

from srpo_ray import cuda
from srpo_ray.config.rewards import OpenClipRewardConfig, PoolConfig
from srpo_ray.cuda import driver_version, require_cuda
from srpo_ray.rewards.pool import scoring

NVIDIA = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 2024\nGCC version: 12\n"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: 12\n"


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.2")


@pytest.mark.parametrize(("text", "version"), [(NVIDIA, "550.54.15"), (OPEN, "580.65.06")])
def test_driver_version_is_read_from_the_kernel_module(
    text: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "_DRIVER", tmp_path / "version")
    assert driver_version() is None
    (tmp_path / "version").write_text(text)
    assert driver_version() == version


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("driver", "message"),
    [
        ("550.54.15", r"driver is 550\.54\.15, and torch .* for CUDA 13\.2 needs NVIDIA driver 580 or newer: update"),
        (None, r"no NVIDIA driver is loaded there, and torch .* needs NVIDIA driver 580 or newer: install it"),
        ("580.65.06", r"driver is 580\.65\.06, .*: see whether `nvidia-smi` lists the GPU"),
        ("1000", r"driver is 1000, .*: see whether"),
    ],
)
def test_gpu_that_torch_cannot_use_is_refused_with_its_driver_and_the_needed_one(
    driver: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "driver_version", lambda: driver)
    with pytest.raises(ValueError, match=r"training.num_gpus: expected a GPU that torch can use on .*" + message):
        require_cuda("training.num_gpus")


@pytest.mark.usefixtures("no_gpu")
def test_torch_without_cuda_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ValueError, match="is built without CUDA, so install a build with CUDA on every node"):
        require_cuda("training.num_gpus")


@pytest.mark.usefixtures("no_gpu")
def test_replica_asks_for_its_gpu_before_it_loads_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "build_rewards", lambda *_: pytest.fail("a model was loaded"))
    model = OpenClipRewardConfig(name="hps", type="open_clip", path="small_world:preference")
    with pytest.raises(ValueError, match=r"rewards.pool.num_gpus: expected a GPU that torch can use"):
        scoring.LoadedRewards([model], PoolConfig(num_gpus=0.5), "replica")
