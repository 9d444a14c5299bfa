"""Runs with 8-bit copies of the frozen weights in rollouts and with a tiny decoder, beside one without."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from srpo_ray.config import load_run
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.runs.folder import RunFolder
from srpo_ray.training.setup import build_trainer
from srpo_ray.training.trainer import Trainer
from tests.conftest import SMALL_WORLD, TINY
from tests.helpers.training.ranks import joined, run_ranks
from tests.helpers.training.tiny_decoder import save_tiny

LORA = SMALL_WORLD.parent / "small_world_lora.yaml"


def first_updates(run_root: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    rewards = None
    save_tiny(Path(run_root) / "tiny")
    changes = {"plain": [], "int8": ["rollout.base=int8"], "decoder": [f"model.decoder={run_root}/tiny"]}
    for name, overrides in changes.items():
        config = load_run([LORA], [*TINY, f"run_root={run_root}", f"name=run_{name}", *overrides])
        rewards = rewards or LocalRewards.load(config.rewards.models, config.evaluation.held_out)
        folder = RunFolder(Path(run_root) / name)
        folder.make()
        trainer = build_trainer(config, folder, rewards, "cpu", None)
        started = joined(trainer.engine.weights())
        scores = {key: value for key, value in trainer.evaluate(0).items() if not key.startswith(("time/", "memory/"))}
        rollout = clean_tokens(trainer)
        trainer.update(0)
        found[name] = {
            "evaluation": scores,
            "rollout": rollout,
            "started": started,
            "trained": joined(trainer.engine.weights()),
            "next": clean_tokens(trainer),
        }
    return found


def clean_tokens(trainer: Trainer) -> Tensor:
    """Rollouts of the first update's prompts by the present adapters."""
    return torch.cat([collected.clean for _, _, collected in trainer.collect(0)])


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("runs")
    return run_ranks(first_updates, 1, folder, str(folder))


def test_8_bit_rollouts_deviate_evaluations_do_not_and_updates_are_in_the_next_rollout(found: dict[str, Any]) -> None:
    plain, low = found["plain"], found["int8"]
    assert low["evaluation"] == plain["evaluation"]
    assert low["started"].keys() == plain["started"].keys() == low["trained"].keys()
    deviation = (low["rollout"] - plain["rollout"]).norm() / plain["rollout"].norm()
    assert 0 < deviation < 0.05
    assert any(not torch.equal(low["trained"][name], value) for name, value in low["started"].items())
    assert not torch.equal(low["next"], low["rollout"])


def test_tiny_decoder_changes_the_update_and_neither_evaluation_nor_rollout(found: dict[str, Any]) -> None:
    plain, tiny = found["plain"], found["decoder"]
    assert tiny["evaluation"] == plain["evaluation"]
    assert torch.equal(tiny["rollout"], plain["rollout"])
    assert any(not torch.equal(tiny["trained"][name], value) for name, value in plain["trained"].items())
