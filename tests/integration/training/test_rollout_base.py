"""A run whose rollouts use 8-bit copies of the frozen weights, beside one without."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from srpo_ray.config import load_run
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.runs.folder import RunFolder
from srpo_ray.training.setup import build_trainer
from srpo_ray.training.trainer import Trainer
from tests.conftest import SMALL_WORLD, TINY
from tests.helpers.training.ranks import joined, run_ranks

LORA = SMALL_WORLD.parent / "small_world_lora.yaml"


def first_updates(run_root: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    rewards = None
    for base in ("null", "int8"):
        config = load_run([LORA], [*TINY, f"run_root={run_root}", f"name=run_{base}", f"rollout.base={base}"])
        rewards = rewards or LocalRewards.load(config.rewards.models, config.evaluation.held_out)
        folder = RunFolder(Path(run_root) / base)
        folder.make()
        trainer = build_trainer(config, folder, rewards, "cpu", None)
        started = joined(trainer.engine.weights())
        scores = {
            name: value for name, value in trainer.evaluate(0).items() if not name.startswith(("time/", "memory/"))
        }
        rollout = clean_tokens(trainer)
        trainer.update(0)
        found[base] = {
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


def test_rollouts_deviate_evaluations_do_not_and_updates_are_in_the_next_rollout(tmp_path: Path) -> None:
    found = run_ranks(first_updates, 1, tmp_path, str(tmp_path))
    plain, low = found["null"], found["int8"]
    assert low["evaluation"] == plain["evaluation"]
    assert low["started"].keys() == plain["started"].keys() == low["trained"].keys()
    deviation = (low["rollout"] - plain["rollout"]).norm() / plain["rollout"].norm()
    assert 0 < deviation < 0.05
    assert any(not torch.equal(low["trained"][name], value) for name, value in low["started"].items())
    assert not torch.equal(low["next"], low["rollout"])
