"""Computation of features and latents before the first update, and a run on prompts and real images."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxPipeline
from torch import distributed as dist

from srpo_ray.config import RunConfig, load_run
from srpo_ray.data.images import load_images
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.runs.folder import RunFolder
from srpo_ray.training.setup import build_trainer
from srpo_ray.training.trainer import Trainer
from tests.conftest import SMALL_WORLD, TINY
from tests.helpers.training.ranks import joined, run_ranks

PROMPTS = [f"a red circle on a {color} background" for color in ("gray", "white", "black")]


def mixed_run(run_root: Path, world_size: int) -> RunConfig:
    """Two real images in each update of four samples."""
    prompts = run_root / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    return load_run(
        [SMALL_WORLD],
        [
            *TINY,
            f"run_root={run_root}",
            f"data.prompts={prompts}",
            "data.images=small_world:realistic",
            "data.image_ratio=0.5",
            f"training.num_workers={world_size}",
            "training.micro_batch_size=2",
        ],
    )


def train_twice(run_root: str, world_size: int) -> dict[str, Any]:
    """Update from an empty cache, then in a new trainer that cannot encode anything."""
    config = mixed_run(Path(run_root), world_size)
    rewards = LocalRewards.load(config.rewards.models, config.evaluation.held_out)
    first = one_update(config, rewards)
    FluxPipeline.from_pretrained = AutoencoderKL.encode = refuse  # pyright: ignore[reportAttributeAccessIssue]
    return {"first": first, "second": one_update(config, rewards)}


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("encoded again")


def one_update(config: RunConfig, rewards: LocalRewards) -> dict[str, Any]:
    folder = RunFolder(Path(config.run_root) / config.name)
    folder.make()
    trainer = build_trainer(config, folder, rewards, "cpu", None)
    seen: list[Any] = [None] * trainer.world_size
    dist.all_gather_object(seen, samples(trainer, 1))
    metrics = trainer.update(0)
    numbers = {name: value for name, value in metrics.items() if not name.startswith(("time/", "memory/"))}
    return {
        "metrics": numbers,
        "weights": joined(trainer.engine.weights()),
        "samples": {sample: found for share in seen for sample, found in share.items()},
        "activity": folder.activity.exists(),
    }


def samples(trainer: Trainer, step: int) -> dict[int, tuple[str, float]]:
    """Of each sample of this worker its text and how far its real image is from that of the caption; -1 has none."""
    found = {}
    images = load_images("small_world:realistic")
    for batch, _ in trainer.batches(step):
        for row, (sample, text) in enumerate(zip(batch.draws.samples, batch.prompts, strict=True)):
            error = -1.0
            if row in batch.image_rows:
                assert batch.images is not None
                # Several images share a caption.
                captioned = [index for index, caption in enumerate(images.captions) if caption == text]
                decoded = trainer.policy.decode(batch.images[row])
                error = (decoded - images.load(captioned, 64)).pow(2).mean(dim=(1, 2, 3)).min().item()
            found[sample] = (text, error)
    return found


def test_mixed_run_trains_from_the_cache_alone_and_on_any_number_of_workers_on_the_same_samples(
    tmp_path: Path,
) -> None:
    found = {}
    for world_size in (1, 2):
        folder = tmp_path / str(world_size)
        folder.mkdir()
        found[world_size] = run_ranks(train_twice, world_size, tmp_path, str(folder), world_size)
        first, second = found[world_size]["first"], found[world_size]["second"]
        assert second["metrics"] == first["metrics"]
        for name, weights in first["weights"].items():
            assert torch.equal(second["weights"][name], weights)
        # Of four samples two are rolled out in four steps; all four are trained by two branches.
        assert first["metrics"]["cost/forward"] == 2 * 4
        assert first["metrics"]["cost/forward_backward"] == 4 * 2
        assert not first["activity"]

    alone, shared = found[1]["first"]["samples"], found[2]["first"]["samples"]
    assert {sample: text for sample, (text, _) in alone.items()} == {s: text for s, (text, _) in shared.items()}
    for text, error in [*alone.values(), *shared.values()]:
        assert (text in PROMPTS) if error < 0 else error < 0.001
    assert [sum(error >= 0 for _, error in each.values()) for each in (alone, shared)] == [2, 2]
