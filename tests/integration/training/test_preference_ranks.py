"""Preferences on two ranks after the policy has left its reference: gradients and metrics are those of one worker.

The first update is no test of a margin, since all gains are 0 there, and states of the reference's rollout then have no
gradient. So the first update is large, and the second one is compared.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from srpo_ray.algorithms import Batch, build_algorithm
from srpo_ray.algorithms.base import LossOutput
from srpo_ray.config import RunConfig, apply, load_run
from srpo_ray.models.trainable import load_tuned, make_policy
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.runs.folder import RunFolder
from srpo_ray.training.setup import build_trainer
from srpo_ray.training.trainer import Trainer
from tests.conftest import SMALL_WORLD, TINY
from tests.helpers.algorithms.variants import CAPTIONS, LABELS
from tests.helpers.training.ranks import joined, run_ranks
from tests.helpers.training.tiny_flux import relative_error

SETTINGS: dict[str, object] = {
    "algorithm.type": "preference",
    "training.batch_size": 8,
    "training.micro_batch_size": 2,
    "training.optimizer.lr": 1e-3,
}
"""Four micro-batches, two for each rank; the learning rate moves the policy far from the reference in one update."""
ONLINE: dict[str, object] = {
    "algorithm.source": "online",
    "algorithm.group_size": 3,
    "algorithm.sampler": "reference",
}
KINDS: dict[str, dict[str, object]] = {
    "labels": {
        **LABELS,
        "algorithm.loss": "kto",
        "training.batch_size": 16,
        "training.micro_batch_size": 4,
        # After a large update most gains are below 0, and so would be the baseline.
        "training.optimizer.lr": 1e-5,
    },
    "captions": {**CAPTIONS, "algorithm.draws": 2},
    "captions against each other": {**CAPTIONS, "algorithm.loss": "contrastive"},
    "noise of the rollout": {**ONLINE, "algorithm.coupling": "rollout"},
    "states of the rollout": {**ONLINE, "algorithm.coupling": "states", "algorithm.sigma": {"type": "grid"}},
}


def config_of(kind: str, run_root: str) -> RunConfig:
    config = load_run([SMALL_WORLD], [*TINY, f"run_root={run_root}", "training.num_workers=2"])
    return apply(config, SETTINGS | KINDS[kind])


def second_updates(run_root: str) -> dict[str, dict[str, Any]]:
    """For each kind, gradients and metrics of a second update on all ranks, and those of one worker on rank 0."""
    rewards = LocalRewards.load(config_of("labels", run_root).rewards.models)
    return {kind: _second_update(kind, config_of(kind, run_root), rewards) for kind in KINDS}


def _second_update(kind: str, config: RunConfig, rewards: LocalRewards) -> dict[str, Any]:
    trainer = build_trainer(config, RunFolder(Path(config.run_root) / kind), rewards, "cpu", None)
    trainer.update(0)
    weights = joined(trainer.engine.weights())
    for batch, share, collected in trainer.collect(1):
        trainer.backward(trainer.algorithm.losses(batch, collected), share)
    gradients, metrics = trainer.engine.gradients(), trainer.meter.take()
    expected: tuple[dict[str, Tensor], dict[str, float]] = on_one(trainer, weights) if trainer.rank == 0 else ({}, {})
    dist.barrier()
    return {"gradients": gradients, "metrics": metrics, "expected": expected}


def on_one(trainer: Trainer, weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Gradients and metrics of the second update in plain torch: one process and one backward pass over all losses."""
    transformer = load_tuned(trainer.config, torch.float32, "cpu", None).train()
    start = {name: value.clone() for name, value in transformer.state_dict().items()}
    policy = make_policy(trainer.config, transformer, transformer.config, "cpu")
    algorithm = build_algorithm(trainer.config, policy, trainer.rewards)
    one = replace(trainer, policy=policy, algorithm=algorithm, rank=0, world_size=1)
    batches, shares = zip(*one.batches(1), strict=True)
    found: list[Any] = [None] * len(batches)
    for phase in algorithm.phases:
        transformer.load_state_dict(start if phase.role == "reference" else start | weights)
        with torch.no_grad():
            found = [phase.run(batch, before) for batch, before in zip(batches, found, strict=True)]
    transformer.load_state_dict(start | weights)
    rounds: list[tuple[Batch, Any]] = list(zip(batches, found, strict=True))
    settled = zip(batches, shares, algorithm.settle(rounds, lambda value: [value]), strict=True)
    outputs = [(loss(), share) for batch, share, each in settled for loss in algorithm.losses(batch, each)]
    torch.stack([output.loss * share for output, share in outputs]).sum().backward()
    gradients = {name: value.grad for name, value in transformer.named_parameters() if value.grad is not None}
    return gradients, means([output for output, _ in outputs])


def means(outputs: list[LossOutput]) -> dict[str, float]:
    """Mean of each metric over all images, in float64; a metric without any value is left out."""
    values = {name: torch.cat([each.metrics[name].double() for each in outputs]) for name in outputs[0].metrics}
    return {name: each.mean().item() for name, each in values.items() if each.numel()}


@pytest.fixture(scope="module")
def on_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("preferences")
    return run_ranks(second_updates, 2, folder, str(folder))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_two_ranks_are_those_of_one_worker(on_two: dict[str, Any], kind: str) -> None:
    expected, _ = on_two[kind]["expected"]
    assert sum(value.pow(2).sum().item() for value in expected.values()) > 1e-3
    assert relative_error(on_two[kind]["gradients"], expected) < 2e-5


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_of_two_ranks_are_those_of_one_worker(on_two: dict[str, Any], kind: str) -> None:
    _, expected = on_two[kind]["expected"]
    assert set(on_two[kind]["metrics"]) == set(expected)
    assert on_two[kind]["metrics"] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_labels_have_a_baseline_that_its_limit_of_0_does_not_hide(on_two: dict[str, Any]) -> None:
    assert on_two["labels"]["metrics"]["preference/baseline"] > 0
