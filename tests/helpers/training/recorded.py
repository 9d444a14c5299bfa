"""Three updates of every algorithm, recorded before a change of the code: weights, metrics and their hashes.

    python -m tests.helpers.training.recorded

Record anew only for a change that means to change the arithmetic, and say so in its commit.
"""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from srpo_ray.config import RunConfig, load_run
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.runs.folder import RunFolder
from srpo_ray.training.setup import build_trainer
from tests.conftest import ROOT, SMALL_WORLD, TINY
from tests.helpers.training.ranks import joined, run_ranks

FILE = Path(__file__).with_name("recorded.json")
WORLD_SIZES = (1, 2)
UPDATES = 3
WEIGHTS = 32
"""Weights that are recorded one by one, evenly spaced over all of them."""
VARIANTS: dict[str, tuple[str, list[str]]] = {
    "srpo": ("srpo", []),
    "srpo, two renoisings": (
        "srpo",
        ["algorithm.renoisings=2", "algorithm.word_cycle=per_sample", "algorithm.noise=per_sample"],
    ),
    "srpo, draws per worker": (
        "srpo",
        ["algorithm.landing=per_worker", "algorithm.noise=per_worker", "algorithm.query=guided"],
    ),
    "srpo, mixed data": (
        "srpo",
        ["data.images=small_world:realistic", "data.image_ratio=0.5", "training.micro_batch_size=2"],
    ),
    "direct_align": ("direct_align", []),
    "refl": ("refl", ["algorithm.late_share=0.5"]),
    "draft": ("draft", []),
    "draft, three steps": ("draft", ["algorithm.num_steps=3", "algorithm.renoisings=0"]),
    "align_prop": ("align_prop", ["algorithm.cut=normal", "algorithm.cut_mean=0.5", "algorithm.cut_std=0.2"]),
    "dance_grpo": ("dance_grpo", ["algorithm.group_size=3", "training.micro_batch_size=1"]),
}
"""Name -> algorithm and overrides."""


def config_of(variant: str, run_root: str, world_size: int) -> RunConfig:
    """The small world's run with one of the variants."""
    algorithm, overrides = VARIANTS[variant]
    layer = ROOT / "configs" / "algorithms" / f"{algorithm}.yaml"
    files = [SMALL_WORLD, layer] if layer.exists() else [SMALL_WORLD]
    # Both branches before one backward pass on two ranks too, as in the record.
    overrides = [*overrides, "training.losses_in_flight=2"] if algorithm == "srpo" else overrides
    return load_run(files, [*TINY, f"run_root={run_root}", f"training.num_workers={world_size}", *overrides])


def train_variants(run_root: str, world_size: int) -> dict[str, Any]:
    """Train all variants one after the other, with one set of reward models."""
    rewards = LocalRewards.load(config_of("srpo", run_root, world_size).rewards.models)
    return {variant: _train(config_of(variant, run_root, world_size), rewards) for variant in VARIANTS}


def _train(config: RunConfig, rewards: LocalRewards) -> dict[str, Any]:
    trainer = build_trainer(config, RunFolder(Path(config.run_root) / "run"), rewards, "cpu", None)
    before = joined(trainer.engine.weights())
    metrics = [trainer.update(update) for update in range(UPDATES)]
    after = joined(trainer.engine.weights())
    flat = torch.cat([(after[name] - before[name]).flatten() for name in sorted(after)])
    chosen = torch.linspace(0, len(flat) - 1, WEIGHTS, dtype=torch.float64).long()
    return {
        "sha256": _digest(after),
        "changes": flat[chosen].tolist(),
        "metrics": {name: [row[name] for row in metrics] for name in sorted(metrics[0]) if _is_result(name)},
    }


def _is_result(name: str) -> bool:
    return name.startswith(("loss/", "reward/", "advantage/")) or name.endswith("/gradient_norm")


def _digest(weights: dict[str, Tensor]) -> str:
    content = hashlib.sha256()
    for name in sorted(weights):
        content.update(name.encode())
        content.update(weights[name].contiguous().view(torch.uint8).numpy().tobytes())
    return content.hexdigest()


def here() -> dict[str, str]:
    """Properties of a CPU that determine the bits of its results, as far as they are known."""
    return {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}


def train_on(world_size: int, folder: Path) -> dict[str, Any]:
    """`train_variants` on so many ranks, which encode the text features anew: in other batches they differ in bits."""
    own = folder / str(world_size)
    own.mkdir()
    return run_ranks(train_variants, world_size, own, str(own), world_size)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as root:
        found = {str(world_size): train_on(world_size, Path(root)) for world_size in WORLD_SIZES}
    FILE.write_text(json.dumps({"machine": here(), "runs": found}, indent=1) + "\n")
