"""Adapters over a quantised base, trained by the engine and by a loop in plain torch over the dequantised weights."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from srpo_ray.config.model import BaseType
from srpo_ray.config.training import OptimizerConfig, TrainingConfig
from srpo_ray.models.loading import load_transformer
from srpo_ray.models.quantized import PACKAGES
from srpo_ray.training.engine import Engine
from tests.helpers.models.tiny_pipeline import plain_copy, save_tiny_flux, with_adapters
from tests.helpers.training.ranks import joined, run_ranks
from tests.helpers.training.tiny_flux import batches, losses, relative_error

BASES: list[BaseType] = [base for base, package in PACKAGES.items() if importlib.util.find_spec(package)]
LR, MAX_NORM, STEPS = 1e-2, 0.1, range(3)


def train_both(path: str) -> dict[str, Any]:
    """Trained adapters and gradient norms of the engine and of plain torch, for each type of weights."""
    return {base: (by_engine(path, base), by_torch(path, base)) for base in BASES}


def by_engine(path: str, base: BaseType) -> tuple[dict[str, Tensor], list[float]]:
    optimizer = OptimizerConfig(lr=LR, weight_decay=0.0, max_grad_norm=MAX_NORM)
    training = TrainingConfig(batch_size=4, optimizer=optimizer, losses_in_flight=2)
    network = with_adapters(load_transformer(path, torch.float32, base=base))
    network.enable_gradient_checkpointing()
    engine = Engine(network, training, torch.float32)
    norms = []
    for batch in batches(STEPS):
        engine.backward(losses(engine, *batch))
        norms.append(engine.step())
    return joined(engine.weights()), norms


def by_torch(path: str, base: BaseType) -> tuple[dict[str, Tensor], list[float]]:
    network = with_adapters(plain_copy(load_transformer(path, torch.float32, base=base)))
    trained = {name: value for name, value in network.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=LR, weight_decay=0.0)
    norms = []
    for batch in batches(STEPS):
        losses(network, *batch).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(trained.values(), MAX_NORM).item())
        optimizer.step()
        optimizer.zero_grad()
    return {name: value.detach() for name, value in trained.items()}, norms


@pytest.mark.skipif(not BASES, reason="needs bitsandbytes or torchao")
def test_adapters_over_quantised_weights_train_as_in_plain_torch(tmp_path: Path) -> None:
    for base, (found, expected) in run_ranks(train_both, 1, tmp_path, save_tiny_flux(tmp_path / "flux")).items():
        assert found[1] == pytest.approx(expected[1], rel=1e-4), base
        assert relative_error(found[0], expected[0]) < 1e-4, base
