"""Evaluations in contrast with another run, on one and two workers: against the images of `srpo-ray sample`."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from srpo_ray.cli import main
from srpo_ray.config import RunConfig, apply, load_run, to_yaml
from srpo_ray.evaluation.gallery import to_images
from srpo_ray.launch.preflight import open_run_folder
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.runs.checkpoint import read_checkpoint
from srpo_ray.runs.folder import RunFolder, load_images, save_images
from srpo_ray.runs.storage import Storage
from srpo_ray.training.setup import build_trainer
from tests.helpers.training.ranks import run_ranks
from tests.helpers.training.trained_run import trained_run

KINDS = {
    "lora": ("model.lora={rank: 4, alpha: 6}", "model.lora={rank: 2, alpha: 5}", 2),
    "full": ("seed=0", "seed=0", 3),
    "lora_beside_full": ("seed=0", "model.lora={rank: 2, alpha: 5}", 3),
}
"""Kind -> model of the run, model of the other one, and ZeRO stage of two workers."""


def evaluate(*configs: RunConfig) -> None:
    """Evaluate each run at its checkpoint."""
    for config in configs:
        folder = RunFolder(Path(config.run_root) / config.name)
        rewards = LocalRewards.load(config.rewards.models, config.evaluation.held_out)
        checkpoint = read_checkpoint(Storage(folder.checkpoints), 7)
        trainer = build_trainer(config, folder, rewards, "cpu", checkpoint, base_first=True)
        trainer.load_for_evaluation(checkpoint)
        # A graph would keep the whole base model that the shards were cut from.
        kept = trainer.engine._shards_of("contrast")
        assert kept
        assert not any(shard.requires_grad for shard in kept.values())
        trainer.evaluate(7)
        trainer.engine.close()


def run_of(root: Path, kind: str, workers: int) -> RunConfig:
    """A run with a checkpoint, whose evaluations contrast it with another run."""
    own, theirs, stage = KINDS[kind]
    other = root / f"other_{kind}"
    if not other.exists():
        trained_run(other, f"run_root={root}", theirs, seed=1)
        (other / "finished.json").write_text("{}")
    name = f"{kind}_{workers}"
    config, _ = trained_run(root / name, f"run_root={root}", f"name={name}", own)
    changes = {
        "rewards.in_process": True,
        "evaluation.prompts": str(root / "prompts.txt"),
        "evaluation.samples_per_prompt": 1,
        "evaluation.num_steps": 3,
        "evaluation.gallery_size": 2,
        "evaluation.test": None,
        "evaluation.rl_guidance": 1.5,
        "evaluation.contrast_with": str(other),
        **({"training.num_workers": 2, "training.zero_stage": stage} if workers > 1 else {}),
    }
    config = apply(config, changes)
    folder = RunFolder(root / name)
    folder.config.write_text(to_yaml(config))
    folder.evaluations.unlink()
    save_images(folder.base_images, {index: torch.zeros(3, 64, 64) for index in range(2)})
    open_run_folder(load_run([folder.config]), folder.path)
    return config


def test_evaluation_draws_the_images_of_sample_with_one_and_two_workers(tmp_path: Path) -> None:
    prompts = ["a red circle", "a blue square"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    runs = {workers: [run_of(tmp_path, kind, workers) for kind in KINDS] for workers in (1, 2)}
    for workers, configs in runs.items():
        run_ranks(evaluate, workers, tmp_path, *configs)
    for kind in KINDS:
        words = ["sample", str(tmp_path / f"{kind}_1"), *prompts, "--seed", "1234", "--steps", "3"]
        words += ["--rl-guidance", "1.5", "--out"]
        other = str(tmp_path / f"other_{kind}")
        assert main([*words, str(tmp_path / f"out_{kind}"), "--contrast-with", other]) == 0
        files = sorted((tmp_path / f"out_{kind}" / "images").iterdir())
        expected = np.stack([np.asarray(Image.open(file)).astype(int) for file in files])
        for workers in runs:
            drawn = load_images(RunFolder(tmp_path / f"{kind}_{workers}").tuned_images)
            ours = np.stack([np.asarray(image).astype(int) for image in to_images(torch.stack([*drawn.values()]))])
            assert np.abs(ours - expected).max() <= 1, (kind, workers)
