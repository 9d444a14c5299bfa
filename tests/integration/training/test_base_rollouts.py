"""Training on images of the base model, through the real trainer, on one worker and on two."""

from pathlib import Path
from typing import Any

import torch

from srpo_ray.config import RunConfig, load_run
from srpo_ray.models.flux import FluxPolicy
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.runs.collectives import gather
from srpo_ray.runs.folder import RunFolder
from srpo_ray.small_world.truth import measure
from srpo_ray.training import base_rollouts
from srpo_ray.training.setup import build_trainer
from tests.conftest import SMALL_WORLD, TINY
from tests.helpers.training.ranks import joined, run_ranks

PROMPTS = [f"a red circle on a {color} background" for color in ("gray", "white", "black")]


def base_run(run_root: Path, workers: int) -> RunConfig:
    """Three epochs over three prompts in two updates of four samples and a bit, of two images for each prompt."""
    prompts = run_root / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    own = [f"run_root={run_root}", f"data.prompts={prompts}", f"training.num_workers={workers}"]
    base = ["rollout.source=base_model", "rollout.images_per_prompt=2", "training.micro_batch_size=2"]
    return load_run([SMALL_WORLD], [*TINY, *own, *base, "training.num_updates=2"])


def train(run_root: str, workers: int) -> dict[str, Any]:
    """Update once from an empty cache and once in a new trainer, which must not load a base model."""
    config = base_run(Path(run_root), workers)
    rewards = LocalRewards.load(config.rewards.models, config.evaluation.held_out)
    folder = RunFolder(Path(run_root) / "first")
    folder.make()
    results: dict[str, Any] = {}
    for name in ("first", "second"):
        trainer = build_trainer(config, folder, rewards, "cpu", None)
        batches = [batch for batch, _ in trainer.batches(1)]
        given = [(each.draws.samples, each.prompts, each.images) for each in batches if each.images is not None]
        seen = {
            sample: (prompts[row], images[row, 0])
            for share in gather(given)
            for samples, prompts, images in share
            for row, sample in enumerate(samples)
        }
        metrics = trainer.update(1)
        results[name] = {"seen": seen, "cost": metrics["cost/forward"], "weights": joined(trainer.engine.weights())}
        base_rollouts.load_base = refuse
    results["sampled_here"] = sample_here(trainer.policy, seen, config)
    return results


def refuse(*_: object) -> None:
    raise AssertionError("loaded again")


def sample_here(policy: Any, seen: dict[int, Any], config: RunConfig) -> float:
    """Share of the images whose image has the prompt's background; it comes from the model and not from noise."""
    assert isinstance(policy, FluxPolicy)
    assert len(seen) == config.training.batch_size
    prompts = [prompt for prompt, _ in seen.values()]
    images = policy.decode(torch.stack([tokens for _, tokens in seen.values()]))
    return float(measure(images, prompts)["background_accuracy"].mean())


def test_base_model_samples_the_same_images_on_any_number_of_workers_and_once(tmp_path: Path) -> None:
    found = {}
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        found[workers] = run_ranks(train, workers, tmp_path, str(folder), workers)
        first, second = found[workers]["first"], found[workers]["second"]
        assert first["cost"] == second["cost"] == 0
        assert all(torch.equal(second["weights"][name], value) for name, value in first["weights"].items())
        assert found[workers]["sampled_here"] >= 0.75
    alone, shared = found[1]["first"]["seen"], found[2]["first"]["seen"]
    assert alone.keys() == shared.keys()
    for sample, (prompt, tokens) in alone.items():
        assert shared[sample][0] == prompt
        assert torch.equal(shared[sample][1], tokens)
    # The second update begins with the last prompt of the first epoch: two images of a prompt are not the same.
    assert len({tokens.sum().item() for _, tokens in alone.values()}) == len(alone)
