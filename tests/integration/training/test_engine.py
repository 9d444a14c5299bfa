"""ZeRO against plain torch, and the trainer's gradients on two ranks against one."""

import copy
import re
import sys
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import pytest
import torch
from deepspeed.accelerator import get_accelerator
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional

from srpo_ray.config import RunConfig, apply
from srpo_ray.config.training import OptimizerConfig, TrainingConfig
from srpo_ray.models.block_cache import BlockCache
from srpo_ray.models.families import FLUX
from srpo_ray.models.flux import FluxPolicy
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.runs.folder import RunFolder
from srpo_ray.training.engine import Engine
from srpo_ray.training.setup import build_trainer
from srpo_ray.training.shards import forward_hooks
from srpo_ray.training.zero import zero_config
from tests.helpers.training.ranks import joined, run_ranks
from tests.helpers.training.tiny_flux import batches, call, each_loss, losses, relative_error, tiny_transformer

LR, WEIGHT_DECAY, MAX_NORM = 1e-3, 1e-2, 0.1


SETTINGS: dict[str, dict[str, Any]] = {
    "stage 3": {"zero_stage": 3},
    "stage 3, whole blocks": {"gather_blocks": True, "losses_in_flight": 1},
    "stage 2": {"zero_stage": 2},
    "stage 1": {"zero_stage": 1},
}


def train_engine(
    steps: range, state: tuple[dict[str, Tensor], dict[str, Tensor], int] | None, settings: dict[str, Any]
) -> dict[str, Any]:
    """Train with the engine; every rank takes its share of each batch."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    network = tiny_transformer().train()
    if settings.get("gather_blocks"):
        network.enable_gradient_checkpointing()
    if state:
        network.load_state_dict(state[0])
    size = batch_size(world_size)
    optimizer = OptimizerConfig(lr=LR, weight_decay=WEIGHT_DECAY, max_grad_norm=MAX_NORM)
    training = TrainingConfig(batch_size=size, num_workers=world_size, optimizer=optimizer, **settings)
    engine = Engine(network, training, torch.float32, blocks=FLUX.blocks)
    if state:
        engine.load(*state, {})
    share = slice(rank * size // world_size, (rank + 1) * size // world_size)
    gradients, norms = {}, []
    for first, second, sigma in batches(steps, size):
        with torch.no_grad():
            sharded = call(engine, first[share], sigma[share])
            with engine.gathered():
                assert torch.equal(call(engine, first[share], sigma[share]), sharded)
                cache = BlockCache(1e9)
                with cache.active(engine.module, FluxPolicy.block_lists):
                    assert torch.equal(call(engine, first[share], sigma[share]), sharded)
                    assert not cache.skipped
                    call(engine, second[share], sigma[share])
                assert cache.skipped > 0
        with engine.gathered(), pytest.raises(AssertionError, match="cannot be in `gathered`"):
            call(engine, first[share], sigma[share])
        if training.losses_in_flight == 1:
            for loss in each_loss(engine, first[share], second[share], sigma[share]):
                engine.backward(loss)
        else:
            engine.backward(losses(engine, first[share], second[share], sigma[share]))
        gradients = engine.gradients() if training.offload is None else {}
        norms.append(engine.step())
    return {
        "gradients": gradients,
        "norms": norms,
        "hooked": [name for name, module in network.named_modules() if any(forward_hooks(module))],
        "weights": joined(engine.weights()),
        "optimizer": joined(engine.optimizer_state()),
    }


def batch_size(world_size: int) -> int:
    """Samples of a batch that every rank gets an equal share of."""
    return 6 if world_size == 3 else 4


def train_all(settings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {name: train_engine(range(3), None, values) for name, values in settings.items()}


def train_torch(steps: range, size: int = 4) -> dict[str, Any]:
    """The same in plain torch, in one process on the whole batch."""
    network = tiny_transformer()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    norms, gradients = [], {}
    for first, second, sigma in batches(steps, size):
        optimizer.zero_grad()
        losses(network, first, second, sigma).backward()
        gradients = {name: copy.deepcopy(value.grad) for name, value in network.named_parameters()}
        norms.append(float(torch.nn.utils.clip_grad_norm_(network.parameters(), MAX_NORM)))
        optimizer.step()
    return {"gradients": gradients, "norms": norms, "weights": dict(network.named_parameters())}


@pytest.fixture(scope="module", params=[1, 2, pytest.param(3, marks=pytest.mark.long)])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any]]:
    return request.param, run_ranks(train_all, request.param, tmp_path_factory.mktemp("trained"), SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_updates_equal_plain_torch(trained: tuple[int, dict[str, Any]], name: str) -> None:
    world_size, found = trained[0], trained[1][name]
    expected = train_torch(range(3), batch_size(world_size))
    assert relative_error(found["gradients"], expected["gradients"]) < 1e-5
    assert found["norms"] == pytest.approx(expected["norms"], rel=1e-5)
    assert relative_error(found["weights"], expected["weights"]) < 1e-5


def test_stages_1_and_2_hook_no_layer_and_whole_blocks_hook_none_inside(trained: tuple[int, dict[str, Any]]) -> None:
    hooked = {name: set(found["hooked"]) for name, found in trained[1].items()}
    # DeepSpeed hooks the whole transformer at every stage.
    assert hooked["stage 1"] == hooked["stage 2"] == {""}
    inside = {name for name in hooked["stage 3"] if re.match(r"(single_)?transformer_blocks\.\d+\.", name)}
    assert len(inside) > 20
    assert hooked["stage 3, whole blocks"] == hooked["stage 3"] - inside


def compiler_is_loaded() -> bool:
    for stage in (2, 3):
        Engine(tiny_transformer(), TrainingConfig.model_validate({"zero_stage": stage}), torch.float32)
    return "torch._inductor.compile_fx" in sys.modules


def test_engine_does_not_load_torchs_compiler(tmp_path: Path) -> None:
    assert not run_ranks(compiler_is_loaded, 1, tmp_path)


@pytest.mark.parametrize(("offload", "stage"), [("optimizer", 3), ("weights", 3), ("optimizer", 2)])
def test_offloaded_updates_equal_plain_torch(tmp_path: Path, offload: str, stage: int) -> None:
    settings = {"offload": offload, "zero_stage": stage}
    found = run_ranks(train_engine, 2, tmp_path, range(3), None, settings)
    expected = train_torch(range(3))
    assert found["norms"] == pytest.approx(expected["norms"], rel=1e-5)
    assert relative_error(found["weights"], expected["weights"]) < 1e-5


def copies_of_offloaded_weights(offload: str) -> list[dict[str, Tensor]]:
    """Weights and old weights after an update. A copy to the accelerator would be a meta tensor, without values."""
    training = TrainingConfig.model_validate({"batch_size": 4, "offload": offload})
    engine = Engine(tiny_transformer().train(), training, torch.float32, roles=frozenset(("old",)))
    ((first, second, sigma),) = batches(range(1), 4)
    engine.backward(losses(engine, first, second, sigma))
    engine.step()
    with patch.object(type(get_accelerator()), "current_device_name", lambda *_: "meta"):
        engine.refresh_old(0.25)
    return [joined(tensors) for tensors in (engine.weights(), engine.old())]


@pytest.mark.parametrize("offload", ["optimizer", "weights"])
def test_copies_of_offloaded_weights_are_made_on_the_host(tmp_path: Path, offload: str) -> None:
    weights, old = run_ranks(copies_of_offloaded_weights, 1, tmp_path, offload)
    start = tiny_transformer().state_dict()
    assert relative_error(old, {name: 0.25 * start[name] + 0.75 * weights[name] for name in start}) < 1e-6
    assert relative_error(weights, start) > 1e-5


@pytest.mark.parametrize(
    ("offload", "parts"), [(None, set()), ("optimizer", {"optimizer"}), ("weights", {"optimizer", "param"})]
)
def test_offload_reaches_deepspeeds_config(offload: Literal["optimizer", "weights"] | None, parts: set[str]) -> None:
    zero = zero_config(TrainingConfig(offload=offload), torch.bfloat16, 3, 1)["zero_optimization"]
    assert {key.removeprefix("offload_") for key in zero if key.startswith("offload_")} == parts
    assert all(zero[f"offload_{part}"] == {"device": "cpu"} for part in parts)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("stage 3", "stage 3"),
        ("stage 3", "stage 2"),
        ("stage 2", "stage 3"),
        ("stage 3", "offloaded"),
        ("offloaded", "stage 3"),
    ],
)
def test_state_resumes_at_another_world_size_and_stage_as_if_never_stopped(
    tmp_path: Path, before: str, after: str
) -> None:
    settings = SETTINGS | {"offloaded": {"offload": "weights"}}
    first = run_ranks(train_engine, 2, tmp_path, range(2), None, settings[before])
    state = (first["weights"], first["optimizer"], 2)
    rest = run_ranks(train_engine, 1, tmp_path, range(2, 4), state, settings[after])
    assert relative_error(rest["weights"], train_torch(range(4))["weights"]) < 1e-5


@pytest.mark.long
def test_state_resumes_on_two_ranks_that_share_a_copy_of_the_weights(tmp_path: Path) -> None:
    first = run_ranks(train_engine, 1, tmp_path, range(2), None, {})
    state = (first["weights"], first["optimizer"], 2)
    rest = run_ranks(train_engine, 2, tmp_path, range(2, 4), state, {"shard_group_size": 2})
    expected = train_torch(range(4))
    assert relative_error(rest["gradients"], expected["gradients"]) < 1e-5
    assert relative_error(rest["weights"], expected["weights"]) < 1e-5


def test_group_of_workers_reaches_deepspeeds_config() -> None:
    def hpz(**changes: int) -> int | None:
        config = TrainingConfig.model_validate({"num_workers": 4, **changes})
        return zero_config(config, torch.bfloat16, 3, 1)["zero_optimization"].get("zero_hpz_partition_size")

    assert (hpz(), hpz(shard_group_size=2)) == (None, 2)


def gradients_of_one_update(folder: str, *configs: RunConfig) -> list[dict[str, Tensor]]:
    """The gradients of the first update of real trainers on the small world."""
    return [_gradients(config, folder) for config in configs]


def _gradients(config: RunConfig, folder: str) -> dict[str, Tensor]:
    trainer = build_trainer(config, RunFolder(folder), LocalRewards.load(config.rewards.models), "cpu", None)
    assert not any(hasattr(parameter, "ds_id") for parameter in trainer.policy.vae.parameters()), "VAE was sharded"
    for batch, share in trainer.batches(0):
        with trainer.engine.gathered():
            collected = trainer.algorithm.collect(batch)
        trainer.backward(trainer.algorithm.losses(batch, collected), share)
    return trainer.engine.gradients()


def test_two_ranks_have_the_gradients_of_one_whole_or_in_parts_or_one_loss_at_a_time(
    tiny_run: RunConfig, tmp_path: Path
) -> None:
    (whole,) = run_ranks(gradients_of_one_update, 1, tmp_path, str(tmp_path), tiny_run)
    halves = apply(tiny_run, {"training.num_workers": 2})
    parts = apply(halves, {"training.micro_batch_size": 1})
    together = apply(halves, {"training.losses_in_flight": 2})
    for found in run_ranks(gradients_of_one_update, 2, tmp_path, str(tmp_path), halves, parts, together):
        assert relative_error(found, whole) < 1e-5
    # Four passes on three workers: the third makes two that count nothing.
    elastic = {"training.num_workers": {"min": 1, "max": 4}, "training.resources": {"trainer_slot": 1}}
    (uneven,) = run_ranks(gradients_of_one_update, 3, tmp_path, str(tmp_path), apply(tiny_run, elastic))
    assert relative_error(uneven, whole) < 1e-5


def test_interleaved_backwards_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine.__new__(Engine)
    network = torch.nn.Linear(2, 2)
    network.backward = lambda loss: loss.backward()  # type: ignore[assignment]
    monkeypatch.setattr(engine, "_engine", network, raising=False)
    monkeypatch.setattr(engine, "_forward_passes", 0, raising=False)
    monkeypatch.setattr(engine, "_gathered", False, raising=False)
    monkeypatch.setattr(engine, "_role", "policy", raising=False)
    first, second = (functional.mse_loss(engine(torch.ones(1, 2)), torch.zeros(1, 2)) for _ in range(2))
    engine.backward(first)
    with pytest.raises(AssertionError, match="needs a forward pass"):
        engine.backward(second)
