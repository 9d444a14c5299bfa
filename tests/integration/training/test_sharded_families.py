"""Updates of the newer families on two workers at ZeRO-3, against one worker with whole weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from srpo_ray.config import RunConfig, apply, load_run
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.runs.folder import RunFolder
from srpo_ray.training.setup import build_trainer
from tests.conftest import SMALL_WORLD, TINY
from tests.helpers.models.tiny_families import LENGTHS, SAVERS
from tests.helpers.training.ranks import joined, run_ranks

UPDATES = 2


def train_all(configs: dict[str, RunConfig], folder: str) -> dict[str, dict[str, Any]]:
    return {name: train(config, f"{folder}/{name}") for name, config in configs.items()}


def train(config: RunConfig, folder: str) -> dict[str, Any]:
    """Weights of all ranks before and after the updates, and whether they are sharded."""
    rewards = LocalRewards.load(config.rewards.models, config.evaluation.held_out)
    trainer = build_trainer(config, RunFolder(folder), rewards, "cpu", None)
    before = {name: value.clone() for name, value in joined(trainer.engine.weights()).items()}
    for update in range(UPDATES):
        trainer.update(update)
    sharded = any(hasattr(parameter, "ds_tensor") for parameter in trainer.engine.module.parameters())
    return {"before": before, "after": joined(trainer.engine.weights()), "sharded": sharded}


def change(found: dict[str, Any]) -> dict[str, Tensor]:
    return {name: found["after"][name] - value for name, value in found["before"].items()}


def run_of(name: str, path: Path, lora: str | None) -> RunConfig:
    """One worker, which has whole weights."""
    return load_run(
        [SMALL_WORLD],
        [
            *TINY,
            f"run_root={path.parent}",
            f"model.path={path}",
            f"model.max_sequence_length={LENGTHS[name]}",
            *([f"model.lora={lora}"] if lora else []),
            "algorithm={type: draft, num_steps: 1, renoisings: 0}",
            "rollout={num_steps: 2, shift: scheduler, guidance_scale: 2.0}",
            "evaluation.guidance_scale=2.0",
            "training.zero_stage=1",
            "training.optimizer.lr=1e-3",
        ],
    )


@pytest.mark.long
def test_two_workers_at_zero_3_change_the_weights_as_one_with_whole_weights(tmp_path: Path) -> None:
    alone = {}
    for name in ("flux2", "z_image", "qwen_image", "krea2", "qwen_image21"):
        path = SAVERS[name](tmp_path / name)
        for kind, lora in (("all weights", None), ("adapters", "{rank: 2, alpha: 2}")):
            alone[f"{name}, {kind}"] = run_of(name, path, lora)
    halves = {"training.num_workers": 2, "training.zero_stage": 3}
    together = {name: apply(config, halves) for name, config in alone.items()}
    expected = run_ranks(train_all, 1, tmp_path, alone, str(tmp_path / "alone"))
    found = run_ranks(train_all, 2, tmp_path, together, str(tmp_path / "together"))
    for name, one in expected.items():
        two = found[name]
        assert (one["sharded"], two["sharded"]) == (False, True), name
        assert all(torch.equal(two["before"][key], value) for key, value in one["before"].items()), name
        ours, theirs = change(two), change(one)
        assert ours.keys() == theirs.keys(), name
        size = sum(value.pow(2).sum().item() for value in theirs.values())
        error = sum((ours[key] - value).pow(2).sum().item() for key, value in theirs.items())
        assert size > 0, name
        assert (error / size) ** 0.5 < 1e-3, name
