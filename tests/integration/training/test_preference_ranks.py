"""Preferences on two ranks after the policy has left its reference: gradients and metrics are those of one worker.

The first update is no test of a margin, since all gains are 0 there, and states of the reference's rollout then have no
gradient. So the second update is compared, after a first one that is large but for labels.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from srpo_ray.algorithms.base import LossOutput
from srpo_ray.config import RunConfig, apply, load_run
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.runs.folder import RunFolder
from srpo_ray.training.setup import build_trainer
from srpo_ray.training.trainer import Trainer
from tests.conftest import SMALL_WORLD, TINY
from tests.helpers.algorithms.variants import CAPTIONS, LABELS
from tests.helpers.training.algorithm_checks import plain_update
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
        # After a large update the mean gain is below 0, and the baseline would be at its limit of 0.
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
    expected = plain_second_update(trainer, weights) if trainer.rank == 0 else ({}, {})
    dist.barrier()
    return {"gradients": gradients, "metrics": metrics, "expected": expected}


def plain_second_update(trainer: Trainer, weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Gradients and metrics of the second update of one worker in plain torch."""
    gradients, outputs = plain_update(trainer, 1, weights)
    return gradients, means(outputs)


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
