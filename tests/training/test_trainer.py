"""The order of forward passes and backwards in an update."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from srpo_ray.algorithms.base import LossOutput, PendingLoss
from srpo_ray.training.meters import MeanMeter, StageTimer
from srpo_ray.training.trainer import Trainer


@pytest.mark.parametrize(
    ("in_flight", "expected"),
    [
        (1, ["forward 1", "back 0.5", "forward 2", "back 1.0", "forward 3", "back 1.5"]),
        (2, ["forward 1", "forward 2", "back 1.5", "forward 3", "back 1.5"]),
        (3, ["forward 1", "forward 2", "forward 3", "back 3.0"]),
    ],
)
def test_backward_waits_for_as_many_losses_as_the_algorithm_keeps_in_flight(
    in_flight: int, expected: list[str]
) -> None:
    events: list[str] = []

    def losses() -> Iterator[PendingLoss]:
        for number in (1, 2, 3):
            events.append(f"forward {number}")
            output = LossOutput(torch.tensor(float(number)), {})
            yield cast(PendingLoss, SimpleNamespace(result=lambda output=output: output))

    def backward(loss: Tensor) -> None:
        events.append(f"back {loss.item()}")

    trainer: Any = SimpleNamespace(
        config=SimpleNamespace(training=SimpleNamespace(losses_in_flight=None)),
        algorithm=SimpleNamespace(losses_in_flight=in_flight),
        engine=SimpleNamespace(backward=backward),
        timer=StageTimer(),
        meter=MeanMeter("cpu"),
    )
    Trainer.backward(trainer, losses(), share=0.5)
    assert events == expected
