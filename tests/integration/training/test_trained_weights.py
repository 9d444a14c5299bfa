"""Adapters, average, schedule, micro-batches and bfloat16 on two ranks, against a loop in plain torch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.func import functional_call
from torch.nn import functional

from srpo_ray.config.model import LoraConfig
from srpo_ray.config.training import EmaConfig, LearningRateScheduleConfig, OptimizerConfig, TrainingConfig
from srpo_ray.models.trainable import add_adapters, load_trained
from srpo_ray.training import engine as engine_module
from srpo_ray.training.engine import Engine
from tests.helpers.training.ranks import joined, run_ranks
from tests.helpers.training.tiny_flux import batches, call, losses, relative_error, tiny_transformer

UPDATES, BATCH = 4, 4
OPTIMIZER = OptimizerConfig(lr=1e-2, weight_decay=1e-2, max_grad_norm=0.1)
LORA = LoraConfig(rank=3, alpha=6)
# Both were worked out by hand: a warmup of two updates, then half a cosine from 1 to 0.1 over the other two; and an
# average that keeps (1 + n) / (10 + n) after n updates, but at most 0.15.
FACTORS, DECAYS = (0.5, 1.0, 1.0, 0.55), (1 / 10, 0.15, 0.15, 0.15)


@dataclass(frozen=True)
class Setting:
    """Options of a run."""

    lora: bool = False
    ema: bool = False
    schedule: bool = False
    bfloat16: bool = False
    micro_batch_size: int | None = None
    stage: Literal["auto", 1, 2, 3] = "auto"
    sharded: bool = False
    """Let ZeRO-3 keep no small parameter whole; in a model as tiny as this it would keep all."""

    @property
    def hooked(self) -> bool:
        """True at ZeRO-3, which hooks every module."""
        return self.stage == 3 or not self.lora

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.bfloat16 else torch.float32

    def training(self, world_size: int) -> TrainingConfig:
        schedule = LearningRateScheduleConfig(type="cosine", warmup_updates=2, final_fraction=0.1)
        return TrainingConfig(
            num_updates=UPDATES,
            batch_size=BATCH,
            num_workers=world_size,
            micro_batch_size=self.micro_batch_size,
            optimizer=OPTIMIZER,
            lr_schedule=schedule if self.schedule else LearningRateScheduleConfig(),
            ema=EmaConfig(decay=0.15) if self.ema else None,
            zero_stage=self.stage,
        )


ALL_ON = Setting(lora=True, ema=True, schedule=True, micro_batch_size=1, stage=3, sharded=True)
STAGES = {stage: replace(ALL_ON, stage=stage, sharded=False) for stage in (1, 2)}
SETTINGS = {
    "lora": Setting(lora=True),
    "ema": Setting(ema=True),
    "schedule": Setting(schedule=True),
    "micro-batches": Setting(micro_batch_size=1),
    "all weights, stage 2": Setting(ema=True, micro_batch_size=1, stage=2),
    "all on": ALL_ON,
    "all on, stage 1": STAGES[1],
    "all on, stage 2": STAGES[2],
    "bfloat16": Setting(bfloat16=True, micro_batch_size=1),
    "bfloat16, all on": replace(ALL_ON, bfloat16=True),
    "bfloat16, all on, stage 1": replace(STAGES[1], bfloat16=True),
    "bfloat16, all on, stage 2": replace(STAGES[2], bfloat16=True),
}


RESUMED = [name for name in SETTINGS if "all on" in name]


def train(setting: Setting, steps: range, state: dict[str, Any] | None = None) -> dict[str, Any]:
    """Train with the engine from a state that an earlier call returned; every rank takes its share of each batch."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    config = setting.training(world_size)
    network = tiny_transformer(setting.dtype)
    torch.manual_seed(rank)
    if setting.lora:
        add_adapters(network, LORA, seed=7)
    initial = {name: value.detach().clone() for name, value in network.named_parameters() if value.requires_grad}
    if state:
        load_trained(network, state["weights"])
    whole_config = engine_module.zero_config

    def sharded_config(*arguments: Any) -> dict[str, Any]:
        zero = {"stage": 3, "stage3_param_persistence_threshold": 0}
        return {**whole_config(*arguments), "zero_optimization": zero}

    with patch.object(engine_module, "zero_config", sharded_config) if setting.sharded else nullcontext():
        engine = Engine(network, config, setting.dtype)
    if state:
        engine.load(state["weights"], state["optimizer"], steps.start, state["ema"])
    norms, rates, shown, halfway = [], [], torch.empty(0), {}
    size, share = config.pass_size, BATCH // world_size
    for first, second, sigma in batches(steps):
        for start in range(rank * share, (rank + 1) * share, size):
            part = slice(start, start + size)
            loss = losses(engine, first[part].to(setting.dtype), second[part].to(setting.dtype), sigma[part])
            engine.backward(loss * size / share)
        norms.append(engine.step())
        rates.append(engine.lr)
        shown = show(engine, first.to(setting.dtype), sigma)
        if len(norms) == UPDATES // 2:
            halfway = state_of(engine)
    return {
        "initial": initial,
        "halfway": halfway,
        **state_of(engine),
        "norms": norms,
        "rates": rates,
        "shown": shown,
    }


def state_of(engine: Engine) -> dict[str, Any]:
    """Content of a checkpoint."""
    parts = {"weights": engine.weights(), "optimizer": engine.optimizer_state(), "ema": engine.ema()}
    return {name: joined(part) for name, part in parts.items()}


def show(engine: Engine, tokens: Tensor, sigma: Tensor) -> Tensor:
    """Outputs of the EMA model and then of the trained one right after an update, gathered and not."""
    with torch.no_grad():
        with engine.shown("ema"):
            averaged = call(engine, tokens, sigma)
        trained = call(engine, tokens, sigma)
        with engine.shown("ema"), engine.gathered():
            assert torch.equal(call(engine, tokens, sigma), averaged)
        assert torch.equal(call(engine, tokens, sigma), trained)
    return torch.stack([averaged, trained])


def train_all(settings: dict[str, Setting]) -> dict[str, Any]:
    results: dict[str, Any] = {name: train(setting, range(UPDATES)) for name, setting in settings.items()}
    # DeepSpeed puts its own linear layer into torch, whose backward pass sums in another order. In bfloat16 Adam makes
    # 4 % of that in four updates, so the plain loop of bfloat16 runs here, beside the engine, and has that layer too.
    results["plain"] = {
        name: plain_loop(setting, results[name]["initial"])
        for name, setting in settings.items()
        if setting.bfloat16 and dist.get_rank() == 0
    }
    adapters: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(adapters, results["lora"]["initial"])
    results["adapters of the ranks"] = adapters
    for name in RESUMED:
        results[f"{name}, resumed"] = train(settings[name], range(2, UPDATES), results[name]["halfway"])
    return results


def plain_loop(setting: Setting, initial: dict[str, Tensor]) -> dict[str, Any]:
    """The same in one process with no more than torch: float32 masters, cast for every forward pass.

    float32 takes the whole batch at once. bfloat16 rounds where two workers with micro-batches of one sample do: it
    takes each sample alone and averages the gradients of two workers in bfloat16, then adds up in float32. At stage 1
    each worker adds up first.
    """
    network = tiny_transformer(setting.dtype).requires_grad_(False)
    masters = {name: value.detach().float().clone().requires_grad_() for name, value in initial.items()}
    average = {name: value.detach().clone() for name, value in masters.items()}
    optimizer = torch.optim.AdamW(masters.values(), lr=OPTIMIZER.lr, weight_decay=OPTIMIZER.weight_decay)
    passes = [[[0], [2]], [[1], [3]]] if setting.bfloat16 else [[[0, 1, 2, 3]]]
    norms, shown = [], torch.empty(0)
    for update, (first, second, sigma) in enumerate(batches(range(UPDATES))):
        leaves = {name: value.detach().to(setting.dtype).requires_grad_() for name, value in masters.items()}
        rounds = []
        for workers in passes:
            with plain_model(network, leaves, hooked=setting.hooked) as model:
                gradients = [
                    torch.autograd.grad(
                        losses(model, first[part].to(setting.dtype), second[part].to(setting.dtype), sigma[part])
                        / len(passes),
                        list(leaves.values()),
                    )
                    for part in workers
                ]
            rounds.append(gradients)
        if setting.stage == 1:
            own = [zip(*each, strict=True) for each in zip(*rounds, strict=True)]
            rounds = [[[torch.stack(parts).float().sum(0) for parts in worker] for worker in own]]
        for place, master in enumerate(masters.values()):
            means = [
                torch.stack([gradient[place].to(setting.dtype) / len(each) for gradient in each]).sum(0).float()
                for each in rounds
            ]
            master.grad = torch.stack(means).sum(0)
        norms.append(float(torch.nn.utils.clip_grad_norm_(masters.values(), OPTIMIZER.max_grad_norm)))
        optimizer.param_groups[0]["lr"] = OPTIMIZER.lr * (FACTORS[update] if setting.schedule else 1)
        optimizer.step()
        with torch.no_grad():
            for name, value in masters.items():
                average[name] = DECAYS[update] * average[name] + (1 - DECAYS[update]) * value
            answers = []
            for values in (average if setting.ema else masters, masters):
                with plain_model(network, {name: value.to(setting.dtype) for name, value in values.items()}) as model:
                    answers.append(call(model, first.to(setting.dtype), sigma))
            shown = torch.stack(answers)
    weights = {name: value.detach() for name, value in masters.items()}
    return {"weights": weights, "ema": average, "norms": norms, "shown": shown}


@contextmanager
def plain_model(network: nn.Module, values: dict[str, Tensor], *, hooked: bool = False) -> Iterator[Callable[..., Any]]:
    """The network with these weights, or with these adapters beside its own."""

    def adapt(down: Tensor, up: Tensor) -> Callable[..., Tensor]:
        return lambda _, inputs, output: output + functional.linear(functional.linear(inputs[0], down), up) * 2

    downs = {name.removesuffix(".lora_A.default.weight"): name for name in values if ".lora_A." in name}
    # The layer's own gradient and the adapter's are added up before those of other layers with the same input, as
    # ZeRO's hooks have it; in bfloat16 the order counts.
    handles = [
        network.get_submodule(layer).register_forward_pre_hook(lambda _, inputs: (inputs[0].view_as(inputs[0]),))
        for layer in (downs if hooked else ())
    ]
    handles += [
        network.get_submodule(layer).register_forward_hook(adapt(values[name], values[name.replace("_A", "_B")]))
        for layer, name in downs.items()
    ]
    weights = {} if downs else values
    yield lambda **inputs: functional_call(network, weights, kwargs=inputs)
    for handle in handles:
        handle.remove()


def error(found: dict[str, Tensor], expected: dict[str, Tensor], initial: dict[str, Tensor]) -> float:
    """Relative error of how far the weights have moved."""
    moved = {name: value.detach() - initial[name].float() for name, value in expected.items()}
    return relative_error({name: value - initial[name].float() for name, value in found.items()}, moved)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_ranks(train_all, 2, tmp_path_factory.mktemp("trained"), SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_two_ranks_train_what_a_plain_loop_trains(trained: dict[str, Any], name: str) -> None:
    setting, found = SETTINGS[name], trained[name]
    expected = trained["plain"][name] if setting.bfloat16 else plain_loop(setting, found["initial"])
    assert error(found["weights"], expected["weights"], found["initial"]) < 1e-4
    assert found["norms"] == pytest.approx(expected["norms"], rel=1e-4)
    torch.testing.assert_close(found["shown"], expected["shown"], rtol=1e-4, atol=1e-5)
    assert found["rates"] == pytest.approx([1e-2 * factor for factor in (FACTORS if setting.schedule else [1] * 4)])
    if setting.ema:
        assert error(found["ema"], expected["ema"], found["initial"]) < 1e-4
        assert error(found["ema"], expected["weights"], found["initial"]) > 0.01
    else:
        assert found["ema"] == {}


@pytest.mark.parametrize("name", RESUMED)
def test_resumed_run_is_bitwise_the_run_that_never_stopped(trained: dict[str, Any], name: str) -> None:
    straight, resumed = trained[name], trained[f"{name}, resumed"]
    for part in ("weights", "optimizer", "ema"):
        assert set(resumed[part]) == set(straight[part])
        for key, value in straight[part].items():
            assert torch.equal(resumed[part][key], value), (part, key)
    assert torch.equal(resumed["shown"], straight["shown"])
    assert resumed["rates"] == straight["rates"][2:]


def test_run_of_two_ranks_resumes_with_one(trained: dict[str, Any], tmp_path: Path) -> None:
    rest = run_ranks(train, 1, tmp_path, ALL_ON, range(2, UPDATES), trained["all on"]["halfway"])
    assert relative_error(rest["weights"], trained["all on"]["weights"]) < 1e-6
    assert relative_error(rest["ema"], trained["all on"]["ema"]) < 1e-6


def test_adapters_start_the_same_on_every_rank(trained: dict[str, Any]) -> None:
    first, second = trained["adapters of the ranks"]
    assert set(first) == set(trained["lora"]["weights"])
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all((value.count_nonzero() == 0) == ("lora_B" in name) for name, value in first.items())


def test_bfloat16_keeps_what_its_weights_cannot_hold(trained: dict[str, Any]) -> None:
    found = trained["bfloat16"]
    rounded = {name: value.bfloat16().float() for name, value in found["weights"].items()}
    assert error(rounded, found["weights"], found["initial"]) > 1e-3
