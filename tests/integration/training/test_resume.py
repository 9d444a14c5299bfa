"""A real trainer with adapters, an average and reused rollouts: its checkpoint gives all of it back."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from srpo_ray.config import RunConfig, apply, to_yaml
from srpo_ray.config.continuation import run_identity
from srpo_ray.inference.job import SamplingOptions, open_run
from srpo_ray.inference.sample import sample_run
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.runs.checkpoint import Checkpoint, load_checkpoint, read_checkpoint, save_checkpoint
from srpo_ray.runs.folder import RunFolder
from srpo_ray.runs.storage import Storage
from srpo_ray.training.setup import build_trainer
from tests.helpers.training.ranks import run_ranks
from tests.helpers.training.tiny_flux import relative_error

SETTINGS = {
    "model.lora.rank": 4,
    "training.ema.decay": 0.9,
    "training.lr_schedule": {"type": "linear", "warmup_updates": 1},
    "training.optimizer.lr": 1e-2,
    "rollout.reuse": 2,
}


def train_and_resume(config: RunConfig, path: str) -> list[dict[str, Any]]:
    """Results after a checkpoint: of the trainer that wrote it, one that read it, and its weights when loaded later."""
    folder = RunFolder(path)
    folder.make()
    rewards = LocalRewards.load(config.rewards.models, config.evaluation.held_out)
    trainer = build_trainer(config, folder, rewards, "cpu", None)
    trainer.evaluate(0)
    trainer.update(0)
    trainer.save(1)
    checkpoint = load_checkpoint(Storage(folder.checkpoints), run_identity(config))
    resumed = build_trainer(config, folder, rewards, "cpu", checkpoint)
    results = []
    for each in (trainer, resumed):
        metrics = {**each.evaluate(1), **each.update(1)}
        assert metrics["cost/forward"] == 0
        numbers = {name: value for name, value in metrics.items() if not name.startswith(("time/", "memory/"))}
        results.append({"metrics": numbers, "weights": each.engine.weights(), "ema": each.engine.ema()})
    assert checkpoint
    trainer.load_for_evaluation(checkpoint)
    later = {name: value for name, value in trainer.evaluate(1).items() if not name.startswith("time/")}
    results.append({"metrics": later, "weights": trainer.engine.weights(), "ema": trainer.engine.ema()})
    return results


def train_to(config: RunConfig, path: str, step: int) -> dict[str, torch.Tensor]:
    """Go on from the newest checkpoint with as many ranks as there are, and write the next one; the weights."""
    folder = RunFolder(path)
    storage = Storage(folder.checkpoints)
    checkpoint = load_checkpoint(storage, run_identity(config))
    rewards = LocalRewards.load(config.rewards.models, config.evaluation.held_out)
    trainer = build_trainer(config, folder, rewards, "cpu", checkpoint)
    for made in range(checkpoint.update if checkpoint else 0, step):
        trainer.update(made)
    trainer.save(step)
    return dict(read_checkpoint(storage, step).weights)


def test_run_on_two_then_one_then_two_workers_ends_as_on_two(tiny_run: RunConfig, tmp_path: Path) -> None:
    elastic = {"training.num_workers": {"min": 1, "max": 2}, "training.resources": {"trainer_slot": 1}}
    others = {"training.ema.decay": 0.9, "training.checkpoints_kept": 9, "rollout.reuse": 3}
    config = apply(tiny_run, elastic | others)
    for name in ("straight", "changing"):
        RunFolder(tmp_path / name).make()
    straight = run_ranks(train_to, 2, tmp_path, config, str(tmp_path / "straight"), 4)
    for workers, step in ((2, 1), (1, 2), (2, 4)):
        found = run_ranks(train_to, workers, tmp_path, config, str(tmp_path / "changing"), step)
    assert relative_error(found, straight) < 1e-6


def image(folder: RunFolder) -> bytes:
    return sample_run(
        open_run(folder.path), ["a red circle"], options=SamplingOptions(seed=0, num_steps=2)
    ).read_bytes()


def run_with(config: RunConfig, path: Path, checkpoint: Checkpoint, ema: Mapping[str, torch.Tensor]) -> RunFolder:
    """Another run's folder with the checkpoint's weights and an average."""
    folder = RunFolder(path)
    folder.make()
    folder.config.write_text(to_yaml(config))
    save_checkpoint(Storage(folder.checkpoints), 1, checkpoint.weights, checkpoint.optimizer, ema, {}, 1)
    return folder


def test_checkpoint_of_adapters_gives_back_the_trainer_and_the_samples(tiny_run: RunConfig, tmp_path: Path) -> None:
    config = apply(tiny_run, SETTINGS)
    straight, resumed, later = run_ranks(train_and_resume, 1, tmp_path, config, str(tmp_path / "run"))
    assert resumed["metrics"] == straight["metrics"]
    assert straight["metrics"]["update/lr"] == pytest.approx(1e-2)
    for part in ("weights", "ema"):
        assert all(torch.equal(resumed[part][name], value) for name, value in straight[part].items())

    checkpoint = read_checkpoint(Storage(RunFolder(tmp_path / "run").checkpoints), 1)
    # The best weights of a run that are loaded after its last update evaluate as they did before.
    assert later["metrics"] == {name: straight["metrics"][name] for name in later["metrics"]}
    for part, whole in (("weights", checkpoint.weights), ("ema", checkpoint.ema)):
        assert all(torch.equal(later[part][name], value) for name, value in whole.items())
        assert not all(torch.equal(straight[part][name], value) for name, value in whole.items())
    assert checkpoint.weights
    assert all(".lora_" in name for name in [*checkpoint.weights, *checkpoint.ema])
    averaged = image(run_with(config, tmp_path / "both", checkpoint, checkpoint.ema))
    swapped = replace(checkpoint, weights=checkpoint.ema)
    assert averaged == image(run_with(config, tmp_path / "swapped", swapped, {}))
    assert averaged != image(run_with(config, tmp_path / "weights", checkpoint, {}))
