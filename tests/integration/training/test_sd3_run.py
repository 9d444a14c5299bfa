"""A family of models other than FLUX, through the same trainer, sampler and export."""

from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor

from srpo_ray.config import RunConfig, load_run, to_yaml
from srpo_ray.inference.export import DIFFUSERS_LORA, export_run
from srpo_ray.inference.job import SamplingOptions, open_run
from srpo_ray.inference.sample import sample_run
from srpo_ray.models.trainable import load_tuned
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.runs.folder import RunFolder
from srpo_ray.runs.trained import read_trained
from srpo_ray.training.setup import build_trainer
from tests.conftest import SMALL_WORLD, TINY
from tests.helpers.models.tiny_sd3 import save_tiny_sd3
from tests.helpers.training.ranks import run_ranks

UPDATES = 4


def repeat_update(config: RunConfig, folder: str) -> list[float]:
    """The reward of the same prompts and noise, update after update; leaves an evaluation and a checkpoint."""
    rewards = LocalRewards.load(config.rewards.models, config.evaluation.held_out)
    trainer = build_trainer(config, RunFolder(folder), rewards, "cpu", None)
    trainer.evaluate(0)
    found = [trainer.update(0)["reward/total/sample"] for _ in range(UPDATES)]
    trainer.save(UPDATES)
    return found


def drawn(pipeline: Any) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    settings = {"height": 64, "width": 64, "num_inference_steps": 3, "guidance_scale": 4.0, "max_sequence_length": 16}
    return pipeline("a red circle", generator=torch.Generator().manual_seed(3), output_type="pt", **settings).images


def test_sd3_learns_with_classifier_free_guidance_and_its_export_draws_the_same(tmp_path: Path) -> None:
    base = save_tiny_sd3(tmp_path / "sd3")
    config = load_run(
        [SMALL_WORLD],
        [
            *TINY,
            f"run_root={tmp_path}",
            f"model.path={base}",
            "model.lora={rank: 4, alpha: 4}",
            "algorithm={type: draft, num_steps: 2, renoisings: 0}",
            "rollout.guidance_scale=2.0",
            "evaluation.guidance_scale=2.0",
            "training.optimizer.lr=1e-3",
        ],
    )
    folder = RunFolder(tmp_path / "run")
    folder.make()
    folder.config.write_text(to_yaml(config))
    rewards = run_ranks(repeat_update, 1, tmp_path, config, str(folder.path))
    assert rewards == sorted(rewards)
    assert rewards[-1] > rewards[0] + 0.003

    options = SamplingOptions(num_steps=2, guidance_scale=2.0)
    assert sample_run(open_run(folder.path), ["a red circle"], tmp_path / "x.png", options=options).exists()
    export_run(folder.path, tmp_path / "out")
    tuned = StableDiffusion3Pipeline.from_pretrained(base)
    tuned.load_lora_weights(str(tmp_path / "out"), weight_name=DIFFUSERS_LORA)
    transformer = load_tuned(config, torch.float32, "cpu", read_trained(folder.path).weights)
    expected = drawn(StableDiffusion3Pipeline.from_pretrained(base, transformer=transformer))
    torch.testing.assert_close(drawn(tuned), expected, rtol=0, atol=1e-5)
    assert (expected - drawn(StableDiffusion3Pipeline.from_pretrained(base))).abs().max() > 0.001
