"""Adapters, average, schedule, micro-batches and bfloat16 on two ranks, against a loop in plain torch."""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch import distributed as dist
from torch.func import functional_call

from srpo_ray.config.model import LoraConfig
from srpo_ray.config.training import EmaConfig, LearningRateScheduleConfig, OptimizerConfig, TrainingConfig
from srpo_ray.models.tuned import add_adapters, load_trained
from srpo_ray.training import engine as engine_module
from srpo_ray.training.engine import Engine
from tests.training.ranks import run_ranks
from tests.training.tiny_flux import batches, call, losses, relative_error, tiny_transformer

pytestmark = pytest.mark.slow

UPDATES, BATCH = 4, 4
OPTIMIZER = OptimizerConfig(lr=1e-2, weight_decay=1e-2, max_grad_norm=0.1)
LORA = LoraConfig(rank=3, alpha=6)
# Both were worked out by hand: a warmup of two updates, then half a cosine from 1 to 0.1 over the other two; and an
# average that keeps (1 + n) / (10 + n) after n updates, but at most 0.15.
FACTORS, DECAYS = (0.5, 1.0, 1.0, 0.55), (1 / 10, 0.15, 0.15, 0.15)


@dataclass(frozen=True)
class Setting:
    """What a run has turned on."""

    lora: bool = False
    ema: bool = False
    schedule: bool = False
    bfloat16: bool = False
    micro_batch_size: int | None = None
    sharded: bool = False
    """Let ZeRO keep no small parameter whole; in a model as tiny as this it would keep all."""

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
        )


ALL_ON = Setting(lora=True, ema=True, schedule=True, micro_batch_size=1)
SETTINGS = {
    "lora": Setting(lora=True),
    "ema": Setting(ema=True),
    "schedule": Setting(schedule=True),
    "micro-batches": Setting(micro_batch_size=1),
    "all on": ALL_ON,
    "all on, sharded": replace(ALL_ON, sharded=True),
    "bfloat16": Setting(bfloat16=True, micro_batch_size=1),
    "bfloat16, all on": replace(ALL_ON, bfloat16=True),
}


def train(setting: Setting, steps: range, state: dict[str, Any] | None = None) -> dict[str, Any]:
    """Train with the engine from a state that an earlier call returned; every rank takes its share of each batch."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    config = setting.training(world_size)
    network = tiny_transformer().to(setting.dtype)
    torch.manual_seed(rank)
    if setting.lora:
        add_adapters(network, LORA, seed=7)
    initial = {name: value.detach().clone() for name, value in network.named_parameters() if value.requires_grad}
    if state:
        load_trained(network, state["weights"])
    whole_config = engine_module.zero_config

    def sharded_config(config: TrainingConfig, dtype: torch.dtype) -> dict[str, Any]:
        zero = {"stage": 3, "stage3_param_persistence_threshold": 0}
        return {**whole_config(config, dtype), "zero_optimization": zero}

    with patch.object(engine_module, "zero_config", sharded_config) if setting.sharded else nullcontext():
        engine = Engine(network, config, setting.dtype)
    if state:
        engine.load(state["weights"], state["optimizer"], steps.start, state["average"])
    norms, rates, shown = [], [], torch.empty(0)
    size = config.micro_batch_size or config.worker_batch_size
    for first, second, sigma in batches(steps):
        for start in range(rank * config.worker_batch_size, (rank + 1) * config.worker_batch_size, size):
            part = slice(start, start + size)
            loss = losses(engine, first[part].to(setting.dtype), second[part].to(setting.dtype), sigma[part])
            engine.backward(loss * size / config.worker_batch_size)
        norms.append(engine.step())
        rates.append(engine.lr)
        shown = show(engine, first.to(setting.dtype), sigma)
    return {
        "initial": initial,
        "weights": engine.weights(),
        "optimizer": engine.optimizer_state(),
        "average": engine.average(),
        "norms": norms,
        "rates": rates,
        "shown": shown,
    }


def show(engine: Engine, tokens: Tensor, sigma: Tensor) -> Tensor:
    """What the averaged model answers, gathered and not; the trained model answers as before after it."""
    with torch.no_grad():
        before = call(engine, tokens, sigma)
        with engine.averaged():
            averaged = call(engine, tokens, sigma)
        with engine.averaged(), engine.gathered():
            assert torch.equal(call(engine, tokens, sigma), averaged)
        assert torch.equal(call(engine, tokens, sigma), before)
    return averaged


def train_all(settings: dict[str, Setting]) -> dict[str, Any]:
    results = {name: train(setting, range(UPDATES)) for name, setting in settings.items()}
    adapters: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(adapters, results["lora"]["initial"])
    results["adapters of the ranks"] = adapters
    for name in ("all on", "bfloat16, all on"):
        half = train(settings[name], range(2))
        results[f"{name}, half"] = half
        results[f"{name}, resumed"] = train(settings[name], range(2, UPDATES), half)
    return results


def plain_loop(setting: Setting, initial: dict[str, Tensor]) -> dict[str, Any]:
    """The same in one process with no more than torch: float32 masters, cast for each forward pass.

    Adapters are summed into the weights here. In bfloat16 every micro-batch is a pass of its own, as rounding makes
    the passes of a batch and of its parts differ.
    """
    network = tiny_transformer()
    frozen = {name: value.detach().to(setting.dtype) for name, value in network.named_parameters()}
    masters = {name: value.detach().float().clone().requires_grad_() for name, value in initial.items()}
    average = {name: value.detach().clone() for name, value in masters.items()}
    optimizer = torch.optim.AdamW(masters.values(), lr=OPTIMIZER.lr, weight_decay=OPTIMIZER.weight_decay)
    size = 1 if setting.bfloat16 else BATCH

    def effective(values: dict[str, Tensor]) -> dict[str, Tensor]:
        cast = {name: value.to(setting.dtype) for name, value in values.items()}
        if not setting.lora:
            return cast
        weights = dict(frozen)
        for name, down in cast.items():
            base, _, rest = name.partition(".lora_A")
            if rest:
                weights[f"{base}.weight"] = frozen[f"{base}.weight"] + 2 * cast[f"{base}.lora_B{rest}"] @ down
        return weights

    def model(values: dict[str, Tensor]) -> Any:
        weights = effective(values)
        return lambda **inputs: functional_call(network, weights, kwargs=inputs)

    norms, shown = [], torch.empty(0)
    for update, (first, second, sigma) in enumerate(batches(range(UPDATES))):
        optimizer.zero_grad()
        for start in range(0, BATCH, size):
            part = slice(start, start + size)
            inputs = first[part].to(setting.dtype), second[part].to(setting.dtype), sigma[part]
            (losses(model(masters), *inputs) * size / BATCH).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(masters.values(), OPTIMIZER.max_grad_norm)))
        optimizer.param_groups[0]["lr"] = OPTIMIZER.lr * (FACTORS[update] if setting.schedule else 1)
        optimizer.step()
        with torch.no_grad():
            for name, value in masters.items():
                average[name] = DECAYS[update] * average[name] + (1 - DECAYS[update]) * value
            shown = call(model(average if setting.ema else masters), first.to(setting.dtype), sigma)
    return {"weights": masters, "average": average, "norms": norms, "shown": shown}


def error(found: dict[str, Tensor], expected: dict[str, Tensor], initial: dict[str, Tensor]) -> float:
    """Relative error of how far the weights have moved."""
    moved = {name: value.detach() - initial[name].float() for name, value in expected.items()}
    return relative_error({name: value - initial[name].float() for name, value in found.items()}, moved)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_ranks(train_all, 2, tmp_path_factory.mktemp("trained"), SETTINGS)


@pytest.mark.parametrize("name", [name for name, setting in SETTINGS.items() if not setting.bfloat16])
def test_two_ranks_train_what_a_plain_loop_trains(trained: dict[str, Any], name: str) -> None:
    setting, found = SETTINGS[name], trained[name]
    expected = plain_loop(setting, found["initial"])
    assert error(found["weights"], expected["weights"], found["initial"]) < 1e-4
    assert found["norms"] == pytest.approx(expected["norms"], rel=1e-4)
    torch.testing.assert_close(found["shown"], expected["shown"], rtol=1e-4, atol=1e-5)
    assert found["rates"] == pytest.approx([1e-2 * factor for factor in (FACTORS if setting.schedule else [1] * 4)])
    if setting.ema:
        assert error(found["average"], expected["average"], found["initial"]) < 1e-4
        assert error(found["average"], expected["weights"], found["initial"]) > 0.05
    else:
        assert found["average"] == {}


@pytest.mark.parametrize("name", ["all on", "bfloat16, all on"])
def test_resumed_run_is_bitwise_the_run_that_never_stopped(trained: dict[str, Any], name: str) -> None:
    straight, resumed = trained[name], trained[f"{name}, resumed"]
    for part in ("weights", "optimizer", "average"):
        assert set(resumed[part]) == set(straight[part])
        for key, value in straight[part].items():
            assert torch.equal(resumed[part][key], value), (part, key)
    assert torch.equal(resumed["shown"], straight["shown"])
    assert resumed["rates"] == straight["rates"][2:]


def test_run_of_two_ranks_goes_on_with_one(trained: dict[str, Any], tmp_path: Path) -> None:
    rest = run_ranks(train, 1, tmp_path, ALL_ON, range(2, UPDATES), trained["all on, half"])
    assert relative_error(rest["weights"], trained["all on"]["weights"]) < 1e-6
    assert relative_error(rest["average"], trained["all on"]["average"]) < 1e-6


def test_adapters_start_the_same_on_every_rank(trained: dict[str, Any]) -> None:
    first, second = trained["adapters of the ranks"]
    assert set(first) == set(trained["lora"]["weights"])
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all((value.count_nonzero() == 0) == ("lora_B" in name) for name, value in first.items())


@pytest.mark.parametrize("name", ["bfloat16", "bfloat16, all on"])
def test_bfloat16_trains_float32_masters_as_a_plain_loop_does(trained: dict[str, Any], name: str) -> None:
    setting, found = SETTINGS[name], trained[name]
    expected = plain_loop(setting, found["initial"])
    print(name, error(found["weights"], expected["weights"], found["initial"]))
    print(found["norms"], expected["norms"])
    print((found["shown"] - expected["shown"]).abs().max())
    exact = plain_loop(replace(setting, bfloat16=False), found["initial"])
    print("to float32", error(found["weights"], exact["weights"], found["initial"]))
    print("plain to float32", error(expected["weights"], exact["weights"], found["initial"]))
    rounded = {key: value.bfloat16().float() for key, value in found["weights"].items()}
    print("to rounded", error(rounded, expected["weights"], found["initial"]))
    raise AssertionError
