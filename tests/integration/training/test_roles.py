"""Weights of other roles on two ranks: the model's answers with them, and the gradients after they were shown."""

import copy
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist

from srpo_ray.config.algorithms.base import Role
from srpo_ray.config.model import LoraConfig
from srpo_ray.config.training import OptimizerConfig, TrainingConfig
from srpo_ray.models.trainable import add_adapters
from srpo_ray.training import engine as engine_module
from srpo_ray.training.engine import Engine
from tests.helpers.training.ranks import joined, run_ranks
from tests.helpers.training.tiny_flux import batches, call, losses, relative_error, tiny_transformer

LR, MAX_NORM, WORLD_SIZE = 1e-2, 0.1, 2
ROLES: tuple[Role, ...] = ("reference", "old", "policy")
KEPT = (0.0, 1.0, 0.25)
"""Share of the old weights that stays, by update: a copy, a rest, a quarter."""
UPDATES = range(len(KEPT))


class Variant(NamedTuple):
    """What is trained, at which ZeRO stage."""

    lora: bool
    stage: Literal["auto", 1, 2, 3]
    sharded: bool = False
    """Let ZeRO-3 keep no small parameter whole; in a model as tiny as this it would keep all."""


VARIANTS = {
    "full": Variant(lora=False, stage="auto"),
    "full, sharded": Variant(lora=False, stage=3, sharded=True),
    "full, stage 2": Variant(lora=False, stage=2),
    "lora": Variant(lora=True, stage="auto"),
    "lora, sharded": Variant(lora=True, stage=3, sharded=True),
    "lora, stage 1": Variant(lora=True, stage=1),
}


def network_of(lora: bool) -> Any:
    network = tiny_transformer()
    if lora:
        add_adapters(network, LoraConfig(rank=2, target_modules=("attn.to_q", "ff.net.2")), seed=7)
    return network


def engine_of(variant: Variant) -> Engine:
    optimizer = OptimizerConfig(lr=LR, weight_decay=0.0, max_grad_norm=MAX_NORM)
    config = TrainingConfig(batch_size=4, num_workers=WORLD_SIZE, optimizer=optimizer, zero_stage=variant.stage)
    roles = frozenset[Role](("reference", "old"))
    return Engine(network_of(variant.lora), config, torch.float32, roles=roles)


def answers(engine: Engine, tokens: Tensor, sigma: Tensor) -> dict[str, Tensor]:
    """Of the model under each role, the same with whole weights and with sharded ones."""
    found = {}
    for role in ROLES:
        with engine.shown(role), torch.no_grad():
            found[role] = call(engine, tokens, sigma)
            with engine.gathered():
                assert torch.equal(call(engine, tokens, sigma), found[role])
    return found


def train_sharded(variant: Variant) -> dict[str, Any]:
    engine = engine_of(variant)
    share = slice(dist.get_rank() * 2, dist.get_rank() * 2 + 2)
    rows = []
    for update, (first, second, sigma) in zip(UPDATES, batches(UPDATES), strict=True):
        found = answers(engine, first, sigma)
        with engine.shown("old"), pytest.raises(AssertionError, match="trains the policy, got role old"):
            call(engine, first[share], sigma[share])
        engine.backward(losses(engine, first[share], second[share], sigma[share]))
        rows.append({"answers": found, "gradients": engine.gradients()})
        engine.step()
        engine.refresh_old(KEPT[update])
    first, _, sigma = batches(range(9, 10))[0]
    last = answers(engine, first, sigma)
    resumed = engine_of(variant)
    saved = [joined(part) for part in (engine.weights(), engine.optimizer_state(), engine.old())]
    resumed.load(saved[0], saved[1], len(KEPT), {}, saved[2])
    for role, answer in answers(resumed, first, sigma).items():
        assert torch.equal(answer, last[role]), role
    base = None if variant.lora else dict(network_of(lora=False).named_parameters())
    resumed.load_base(base)
    with torch.no_grad():
        assert torch.equal(call(resumed, first, sigma), last["reference"]), "base"
    return {"rows": rows, "last": last}


def train_all() -> dict[str, Any]:
    whole_config = engine_module.zero_config

    def sharded_config(*arguments: Any) -> dict[str, Any]:
        zero = {"stage": 3, "stage3_param_persistence_threshold": 0}
        return {**whole_config(*arguments), "zero_optimization": zero}

    found = {}
    for name, variant in VARIANTS.items():
        patched = patch.object(engine_module, "zero_config", sharded_config)
        with patched if variant.sharded else nullcontext():
            found[name] = train_sharded(variant)
    return found


def train_plain(lora: bool) -> dict[str, Any]:
    """The same in plain torch on the whole batch, with a model for each role."""
    network = network_of(lora)
    models: dict[str, nn.Module] = {role: copy.deepcopy(network) for role in ("reference", "old")} | {"policy": network}
    trained = {name: value for name, value in network.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=LR, weight_decay=0.0)
    rows = []
    for update, (first, second, sigma) in zip(UPDATES, batches(UPDATES), strict=True):
        with torch.no_grad():
            found = {role: call(models[role], first, sigma) for role in ROLES}
        optimizer.zero_grad()
        losses(network, first, second, sigma).backward()
        rows.append(
            {"answers": found, "gradients": {name: copy.deepcopy(value.grad) for name, value in trained.items()}}
        )
        torch.nn.utils.clip_grad_norm_(trained.values(), MAX_NORM)
        optimizer.step()
        old = dict(models["old"].named_parameters())
        for name, value in trained.items():
            old[name].data = KEPT[update] * old[name].data + (1 - KEPT[update]) * value.data
    first, _, sigma = batches(range(9, 10))[0]
    with torch.no_grad():
        return {"rows": rows, "last": {role: call(models[role], first, sigma) for role in ROLES}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_ranks(train_all, WORLD_SIZE, tmp_path_factory.mktemp("roles"))


@pytest.mark.parametrize("name", VARIANTS)
def test_roles_answer_and_gradients_after_them_are_as_in_plain_torch(trained: dict[str, Any], name: str) -> None:
    found, expected = trained[name], train_plain(lora=VARIANTS[name].lora)
    for ours, theirs in zip(found["rows"], expected["rows"], strict=True):
        assert relative_error(ours["gradients"], theirs["gradients"]) < 1e-5
        assert relative_error(ours["answers"], theirs["answers"]) < 1e-5
    assert relative_error(found["last"], expected["last"]) < 1e-5
    differences = [(found["last"][role] - found["last"]["policy"]).abs().max().item() for role in ROLES]
    assert differences[0] > differences[1] > differences[2] == 0
