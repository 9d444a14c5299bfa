"""Weights of other roles on one and two ranks: answers of the model with them, and gradients after they were shown."""

import copy
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist

from srpo_ray.config.algorithms.base import Role
from srpo_ray.config.model import LoraConfig
from srpo_ray.config.training import EmaConfig, OptimizerConfig, TrainingConfig
from srpo_ray.models.contrast import ContrastWeight
from srpo_ray.models.trainable import add_adapters
from srpo_ray.training import engine as engine_module
from srpo_ray.training.contrast import evaluated_weights
from srpo_ray.training.engine import Engine
from tests.helpers.training.ranks import joined, run_ranks
from tests.helpers.training.tiny_flux import batches, call, losses, relative_error, tiny_transformer

LR, MAX_NORM, EMA_DECAY = 1e-2, 0.1, 0.8
CONTRAST = ContrastWeight.constant(1.5)
ROLES: tuple[Role, ...] = ("contrast", "reference", "ema", "old", "policy")
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
    "full, stage 1": Variant(lora=False, stage=1),
    "full, stage 2": Variant(lora=False, stage=2),
    "lora": Variant(lora=True, stage="auto"),
    "lora, sharded": Variant(lora=True, stage=3, sharded=True),
    "lora, stage 1": Variant(lora=True, stage=1),
}


ON_ONE = ("full, stage 1", "full, sharded", "lora, sharded")
"""Variants that one worker trains too."""


def network_of(lora: bool) -> Any:
    network = tiny_transformer()
    if lora:
        add_adapters(network, LoraConfig(rank=2, target_modules=("attn.to_q", "ff.net.2")), seed=7)
    return network


def engine_of(variant: Variant) -> Engine:
    optimizer = OptimizerConfig(lr=LR, weight_decay=0.0, max_grad_norm=MAX_NORM)
    average = EmaConfig(decay=EMA_DECAY, warmup=False)
    workers = dist.get_world_size()
    config = TrainingConfig(
        batch_size=4, num_workers=workers, optimizer=optimizer, zero_stage=variant.stage, ema=average
    )
    roles = frozenset[Role](("reference", "old", "ema"))
    engine = Engine(network_of(variant.lora), config, torch.float32, roles=roles)
    weights = other_weights(network_of(variant.lora))
    assert engine.shapes == {name: value.shape for name, value in weights.items()}
    engine.load_contrast(weights)
    return engine


def other_weights(network: nn.Module) -> dict[str, Tensor]:
    """Weights of another model for the trained parameters of a network, far from its own."""
    source = torch.Generator().manual_seed(5)
    trained = {name: value.detach() for name, value in network.named_parameters() if value.requires_grad}
    return {name: value + 0.5 * torch.randn(value.shape, generator=source) for name, value in trained.items()}


def answers(engine: Engine, tokens: Tensor, sigma: Tensor) -> dict[str, Tensor]:
    """Of the model under each role, the same with whole weights and with sharded ones."""
    found = {}
    for role in ROLES:
        with engine.shown(role), torch.no_grad():
            found[role] = call(engine, tokens, sigma)
            with engine.gathered():
                assert torch.equal(call(engine, tokens, sigma), found[role])
    adapters = any(not parameter.requires_grad for parameter in engine.module.parameters())
    base: Role | None = None if adapters else "reference"
    return (
        found
        | {"from base": contrasted(engine, base, tokens, sigma)}
        | {"from other": contrasted(engine, "contrast", tokens, sigma)}
    )


def contrasted(engine: Engine, other: Role | None, tokens: Tensor, sigma: Tensor) -> Tensor:
    """Velocity that evaluations sample with, in the contrast with a role."""
    policy: Any = SimpleNamespace(network=engine, contrast=None)
    with evaluated_weights(engine, policy, CONTRAST, other=other), torch.no_grad():
        return policy.contrast.velocity(
            sigma,
            lambda: call(policy.network, tokens, sigma),
            lambda: call(policy.contrast.other, tokens, sigma),
        )


def train_sharded(variant: Variant) -> dict[str, Any]:
    engine = engine_of(variant)
    engine.keep_start()
    probe, _, at = batches(range(9, 10))[0]
    with torch.no_grad():
        untrained = call(engine, probe, at)
    size = 4 // dist.get_world_size()
    share = slice(dist.get_rank() * size, (dist.get_rank() + 1) * size)
    rows = []
    for update, (first, second, sigma) in zip(UPDATES, batches(UPDATES), strict=True):
        found = answers(engine, first, sigma)
        with engine.shown("old"), pytest.raises(AssertionError, match="trains the policy, got role old"):
            call(engine, first[share], sigma[share])
        engine.backward(losses(engine, first[share], second[share], sigma[share]))
        rows.append({"answers": found, "gradients": engine.gradients()})
        engine.step()
        engine.refresh_old(KEPT[update])
    first, sigma = probe, at
    last = answers(engine, first, sigma)
    with engine.shown("start"), torch.no_grad():
        assert torch.equal(call(engine, first, sigma), untrained), "start"
    engine.release_start()
    assert not engine.keeps_start
    with torch.no_grad():
        assert torch.equal(call(engine, first, sigma), last["policy"]), "policy after start"
    resumed = engine_of(variant)
    saved = [joined(part) for part in (engine.weights(), engine.optimizer_state(), engine.ema(), engine.old())]
    resumed.load(saved[0], saved[1], len(KEPT), saved[2], saved[3])
    for role, answer in answers(resumed, first, sigma).items():
        assert torch.equal(answer, last[role]), role
    base = None if variant.lora else dict(network_of(lora=False).named_parameters())
    resumed.load_start(base)
    with torch.no_grad():
        assert torch.equal(call(resumed, first, sigma), last["reference"]), "base"
    return {"rows": rows, "last": last}


def train_all(names: tuple[str, ...]) -> dict[str, Any]:
    whole_config = engine_module.zero_config

    def sharded_config(*arguments: Any) -> dict[str, Any]:
        zero = {"stage": 3, "stage3_param_persistence_threshold": 0}
        return {**whole_config(*arguments), "zero_optimization": zero}

    found = {}
    for name, variant in ((name, VARIANTS[name]) for name in names):
        patched = patch.object(engine_module, "zero_config", sharded_config)
        with patched if variant.sharded else nullcontext():
            found[name] = train_sharded(variant)
    return found


def train_plain(lora: bool) -> dict[str, Any]:
    """The same in plain torch on the whole batch, with a model for each role."""
    network = network_of(lora)
    models: dict[str, nn.Module] = {role: network if role == "policy" else copy.deepcopy(network) for role in ROLES}
    models["contrast"].load_state_dict(other_weights(network), strict=False)
    trained = {name: value for name, value in network.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=LR, weight_decay=0.0)
    rows = []
    for update, (first, second, sigma) in zip(UPDATES, batches(UPDATES), strict=True):
        with torch.no_grad():
            found = answers_of(models, first, sigma)
        optimizer.zero_grad()
        losses(network, first, second, sigma).backward()
        rows.append(
            {"answers": found, "gradients": {name: copy.deepcopy(value.grad) for name, value in trained.items()}}
        )
        torch.nn.utils.clip_grad_norm_(trained.values(), MAX_NORM)
        optimizer.step()
        for role, kept in (("old", KEPT[update]), ("ema", EMA_DECAY)):
            copied = dict(models[role].named_parameters())
            for name, value in trained.items():
                copied[name].data = kept * copied[name].data + (1 - kept) * value.data
    first, _, sigma = batches(range(9, 10))[0]
    with torch.no_grad():
        return {"rows": rows, "last": answers_of(models, first, sigma)}


def answers_of(models: dict[str, nn.Module], tokens: Tensor, sigma: Tensor) -> dict[str, Tensor]:
    """Of plain models, and the contrasts of the average with the reference and with the other model."""
    found = {role: call(models[role], tokens, sigma) for role in ROLES}
    others = {"from base": found["reference"], "from other": found["contrast"]}
    return found | {name: other + 1.5 * (found["ema"] - other) for name, other in others.items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("roles")
    return {size: run_ranks(train_all, size, folder, names) for size, names in ((1, ON_ONE), (2, tuple(VARIANTS)))}


@pytest.mark.parametrize(("size", "name"), [*((1, name) for name in ON_ONE), *((2, name) for name in VARIANTS)])
def test_roles_answer_and_gradients_after_them_are_as_in_plain_torch(
    trained: dict[int, dict[str, Any]], size: int, name: str
) -> None:
    found, expected = trained[size][name], train_plain(lora=VARIANTS[name].lora)
    for ours, theirs in zip(found["rows"], expected["rows"], strict=True):
        assert relative_error(ours["gradients"], theirs["gradients"]) < 1e-5
        assert relative_error(ours["answers"], theirs["answers"]) < 1e-5
    assert relative_error(found["last"], expected["last"]) < 1e-5
    differences = [(found["last"][role] - found["last"]["policy"]).abs().max().item() for role in ROLES]
    assert differences == sorted(differences, reverse=True)
    assert min(differences[:-1]) > differences[-1] == 0
