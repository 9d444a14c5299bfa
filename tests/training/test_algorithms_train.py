"""Every algorithm on the small world through the real trainer: gradients against plain torch, and two updates."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from srpo_ray.algorithms import Batch, build_algorithm
from srpo_ray.config import RunConfig, load_run
from srpo_ray.flow import Draws
from srpo_ray.launch.preflight import check_inputs
from srpo_ray.models.flux import FluxPolicy
from srpo_ray.models.loading import load_transformer
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.runs.folder import RunFolder
from srpo_ray.training.setup import build_trainer
from srpo_ray.training.trainer import Trainer
from tests.conftest import ROOT, SMALL_WORLD, TINY
from tests.training.ranks import joined, run_ranks
from tests.training.tiny_flux import relative_error

WORLD_SIZE = 2
BATCH, STEPS, GROUP = 4, 4, 3
VARIANTS: dict[str, list[str]] = {
    "srpo": [],
    "direct_align": [],
    "refl": ["algorithm.late_share=0.5"],
    "draft": [],
    "draft_k": ["algorithm.num_steps=3", "algorithm.renoisings=0"],
    "align_prop": ["algorithm.cut=normal", "algorithm.cut_mean=0.5", "algorithm.cut_std=0"],
    "dance_grpo": [f"algorithm.group_size={GROUP}"],
}
# Samples evaluated without and with gradient in an update; ReFL's depends on the step that is drawn.
COST = {
    "srpo": (BATCH * STEPS, BATCH * 2),
    "direct_align": (BATCH * STEPS, BATCH),
    "draft": (BATCH * (STEPS - 1), BATCH * 3),
    "draft_k": (BATCH * (STEPS - 3), BATCH * 3),
    "align_prop": (BATCH * 2, BATCH * 2),
    "dance_grpo": (BATCH * GROUP * STEPS, BATCH * GROUP),
}


def config_of(variant: str, run_root: str) -> RunConfig:
    layer = ROOT / "configs" / "algorithms" / f"{variant.removesuffix('_k')}.yaml"
    files = [SMALL_WORLD] if variant == "srpo" else [SMALL_WORLD, layer]
    overrides = [*TINY, f"run_root={run_root}", f"training.num_workers={WORLD_SIZE}", *VARIANTS[variant]]
    return load_run(files, overrides)


def train_all(run_root: str) -> dict[str, dict[str, Any]]:
    """Train every algorithm; one process group and one set of reward models for all."""
    models = config_of("srpo", run_root).rewards.models
    rewards = LocalRewards.load(models)
    return {variant: train_one(config_of(variant, run_root), rewards) for variant in VARIANTS}


def train_one(config: RunConfig, rewards: LocalRewards) -> dict[str, Any]:
    """Two updates: the first part by part, for its gradients, the second as the loop makes it."""
    trainer = build_trainer(config, RunFolder(Path(config.run_root) / config.name), rewards, "cpu", None)
    before = joined(trainer.engine.weights())
    expected = plain_gradients(trainer, rewards) if trainer.rank == 0 else {}
    dist.barrier()
    gradients = first_gradients(trainer)
    trainer.engine.step()
    metrics = trainer.update(1)
    after = joined(trainer.engine.weights())
    changed = max((after[name] - before[name]).abs().max().item() for name in before)
    error = relative_error(gradients, expected) if trainer.rank == 0 else 0.0
    return {"metrics": metrics, "changed": changed, "gradient_error": error}


def first_gradients(trainer: Trainer) -> dict[str, Tensor]:
    """Of the first update, through ZeRO-3 on all workers."""
    for batch, share in trainer.batches(0):
        with trainer.engine.gathered():
            collected = trainer.algorithm.collect(batch)
        trainer.backward(trainer.algorithm.losses(batch, collected), share)
    gradients = trainer.engine.gradients()
    trainer.meter.take()
    return gradients


def plain_gradients(trainer: Trainer, rewards: LocalRewards) -> dict[str, Tensor]:
    """Of the same update in plain torch: the whole batch in one process, one backward over all losses."""
    config = trainer.config
    transformer: Any = load_transformer(config.model.path, torch.float32).train()
    policy = FluxPolicy(
        transformer, trainer.policy.vae, transformer.config, resolution=64, dtype=torch.float32, device="cpu"
    )
    algorithm = build_algorithm(config, policy, rewards)
    shares = [batch for rank in range(WORLD_SIZE) for batch in batches_of(trainer, rank)]
    batch = Batch(
        tuple(prompt for share in shares for prompt in share.prompts),
        trainer.prompts.conditioning[[trainer.prompts.texts.index(p) for share in shares for p in share.prompts]],
        Draws(config.seed, 0, tuple(sample for share in shares for sample in share.draws.samples)),
    )
    losses = [loss().loss for loss in algorithm.losses(batch, algorithm.collect(batch))]
    torch.stack(losses).sum().backward()
    return {name: value.grad for name, value in transformer.named_parameters()}


def batches_of(trainer: Trainer, rank: int) -> list[Batch]:
    own, trainer.rank = trainer.rank, rank
    try:
        return [batch for batch, _ in trainer.batches(0)]
    finally:
        trainer.rank = own


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("algorithms")
    return run_ranks(train_all, WORLD_SIZE, folder, str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_updates_change_the_weights(trained: dict[str, dict[str, Any]], variant: str) -> None:
    assert trained[variant]["changed"] > 0
    metrics = trained[variant]["metrics"]
    assert all(torch.isfinite(torch.tensor(value)) for value in metrics.values())
    assert metrics["update/gradient_norm"] > 0
    assert any(name.startswith("reward/total/") for name in metrics)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_on_two_workers_are_those_of_plain_torch(trained: dict[str, dict[str, Any]], variant: str) -> None:
    assert trained[variant]["gradient_error"] < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("variant", COST)
def test_cost_counts_the_samples_of_all_workers(trained: dict[str, dict[str, Any]], variant: str) -> None:
    metrics = trained[variant]["metrics"]
    assert (metrics["cost/forward"], metrics["cost/forward_backward"]) == COST[variant]


class BlackBox:
    """A reward without gradient, as a person or an interface on the net would be one."""

    image_size = 32
    image_gradient = False
    name = "black_box"

    def score(self, images: Tensor, queries: Any) -> Tensor:
        return (images.detach() > 0.5).float().mean(dim=(1, 2, 3))


@pytest.mark.parametrize("variant", VARIANTS)
def test_reward_without_gradient_is_refused_unless_the_algorithm_needs_none(tmp_path: Path, variant: str) -> None:
    target = "tests.training.test_algorithms_train:BlackBox"
    config = load_run(
        [SMALL_WORLD],
        [
            f"algorithm.type={variant.removesuffix('_k')}",
            f"rewards.models=[{{name: mine, type: python, target: '{target}'}}]",
        ],
    )
    if variant == "dance_grpo":
        check_inputs(config)
        return
    with pytest.raises(ValueError, match=r"mine with image_gradient = False; train with algorithm.type=dance_grpo"):
        check_inputs(config)
