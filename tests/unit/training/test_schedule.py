"""The learning rate against torch's own schedulers."""

from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from srpo_ray.config.training import LearningRateScheduleConfig, OptimizerConfig, TrainingConfig
from srpo_ray.training.lr_schedule import learning_rate

UPDATES, WARMUP, PEAK, FINAL = 20, 5, 2e-3, 0.25


def fall(kind: str, optimizer: torch.optim.Optimizer) -> LRScheduler:
    left = UPDATES - WARMUP
    if kind == "linear":
        return LinearLR(optimizer, start_factor=1.0, end_factor=FINAL, total_iters=left)
    if kind == "cosine":
        return CosineAnnealingLR(optimizer, T_max=left, eta_min=FINAL * PEAK)
    return ConstantLR(optimizer, factor=1.0)


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
def test_rate_of_every_update_is_that_of_torchs_schedulers(kind: Any) -> None:
    schedule = LearningRateScheduleConfig(type=kind, warmup_updates=WARMUP, final_fraction=FINAL)
    config = TrainingConfig(num_updates=UPDATES, lr_schedule=schedule, optimizer=OptimizerConfig(lr=PEAK))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=PEAK)
    warmup = LinearLR(optimizer, start_factor=1 / WARMUP, total_iters=WARMUP - 1)
    theirs = SequentialLR(optimizer, [warmup, fall(kind, optimizer)], milestones=[WARMUP])
    for update in range(UPDATES):
        assert learning_rate(config, update) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


def test_without_a_schedule_every_update_has_the_same_rate() -> None:
    config = TrainingConfig(num_updates=3, optimizer=OptimizerConfig(lr=PEAK))
    assert {learning_rate(config, update) for update in range(3)} == {PEAK}
