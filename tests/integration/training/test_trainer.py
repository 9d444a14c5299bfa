"""The order of forward passes and backwards in an update, and the means of its metrics."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from srpo_ray.algorithms.base import Loss, LossOutput, Phase
from srpo_ray.config.algorithms.base import Role
from srpo_ray.config.model import RolloutConfig
from srpo_ray.config.training import TrainingConfig
from srpo_ray.training.meters import MeanMeter, StageTimer
from srpo_ray.training.trainer import Trainer
from tests.helpers.training.ranks import run_ranks


def pending(output: LossOutput) -> Loss:
    """A loss whose rewards have come."""
    return lambda: output


@pytest.mark.parametrize(
    ("in_flight", "expected"),
    [
        (1, ["forward 1", "back 0.5", "forward 2", "back 1.0", "forward 3", "back 1.5"]),
        (2, ["forward 1", "forward 2", "back 1.5", "forward 3", "back 1.5"]),
        (3, ["forward 1", "forward 2", "forward 3", "back 3.0"]),
    ],
)
def test_backward_waits_for_as_many_losses_as_the_config_keeps_in_flight(in_flight: int, expected: list[str]) -> None:
    events: list[str] = []

    def losses() -> Iterator[Loss]:
        for number in (1, 2, 3):
            events.append(f"forward {number}")
            yield pending(LossOutput(torch.tensor(float(number)), {}))

    def backward(loss: Tensor) -> None:
        events.append(f"back {loss.item()}")

    trainer: Any = SimpleNamespace(
        config=SimpleNamespace(losses_in_flight=in_flight),
        engine=SimpleNamespace(backward=backward),
        timer=StageTimer(),
        meter=MeanMeter("cpu"),
    )
    Trainer.backward(trainer, losses(), share=0.5)
    assert events == expected


class Prompted(str):
    """A batch of one prompt, which is to be sampled."""

    prompts, image_rows, size = ("a prompt",), (), None


def test_update_makes_all_phases_then_settles_and_then_makes_its_optimizer_steps() -> None:
    events: list[str] = []

    @contextmanager
    def block(name: str) -> Iterator[None]:
        events.append(name)
        yield
        events.append(f"end of {name}")

    def phase(role: Role) -> Phase:
        def run(batch: Any, before: str | None) -> str:
            assert not torch.is_grad_enabled()
            events.append(f"{role}: {batch}")
            return f"{before or batch}, {role}"

        return Phase(role, run)

    def losses(batch: str, collected: str, part: int) -> Iterator[Loss]:
        assert torch.is_grad_enabled()
        events.append(f"losses of {batch} from <{collected}>, part {part}")
        yield pending(LossOutput(torch.tensor(1.0), {}))

    norms = iter((0.25, 0.75))
    trainer: Any = SimpleNamespace(
        config=SimpleNamespace(rollout_passes=1, rollout=RolloutConfig(), training=TrainingConfig()),
        policy=SimpleNamespace(
            take_evaluations=lambda: SimpleNamespace(forward=0, forward_backward=0), device=torch.device("cpu")
        ),
        engine=SimpleNamespace(
            shown=block,
            gathered=lambda: block("gather"),
            step=lambda: events.append("step") or next(norms),
            refresh_old=lambda kept: events.append(f"keep {kept} of the old weights"),
            lr=0.1,
        ),
        algorithm=SimpleNamespace(
            calls=SimpleNamespace(optimizer_steps=2),
            phases=(phase("policy"), phase("reference")),
            settle=lambda rounds, _: [f"{found}, settled" for _, found in rounds],
            losses=losses,
            old_kept=lambda update: update / 10,
        ),
        batches=lambda _: [(Prompted("a"), 0.5), (Prompted("b"), 0.5)],
        rollouts=SimpleNamespace(keep=lambda *_: None),
        backward=lambda losses, _: list(losses),
        rewards=SimpleNamespace(take_statistics=dict),
        rank=0,
        world_size=1,
        timer=StageTimer(),
        meter=SimpleNamespace(take=dict),
    )
    trainer.collect = lambda step: Trainer.collect(trainer, step)
    trainer.at_size = lambda batch: Trainer.at_size(trainer, batch)
    metrics = Trainer.update(trainer, 3)
    assert events == [
        *("policy", "gather", "policy: a", "policy: b", "end of gather", "end of policy"),
        *("reference", "gather", "reference: a", "reference: b", "end of gather", "end of reference"),
        "losses of a from <a, policy, reference, settled>, part 0",
        "losses of b from <b, policy, reference, settled>, part 0",
        "step",
        "losses of a from <a, policy, reference, settled>, part 1",
        "losses of b from <b, policy, reference, settled>, part 1",
        "step",
        "keep 0.3 of the old weights",
    ]
    assert metrics["update/gradient_norm"] == 0.5


def means_of_two_ranks() -> dict[str, float]:
    """Rank 0 has samples 1 and 2; rank 1 has sample 6 and computes sample 1 once more."""
    meter = MeanMeter("cpu")
    parts = ([((1.0, 2.0), 1.0)], [((6.0,), 1.0), ((1.0,), 0.0)])[dist.get_rank()]
    trainer: Any = SimpleNamespace(
        config=SimpleNamespace(losses_in_flight=1),
        engine=SimpleNamespace(backward=lambda _: None),
        timer=StageTimer(),
        meter=meter,
    )
    for values, share in parts:
        output = LossOutput(torch.tensor(0.0), {"reward": torch.tensor(values)})
        Trainer.backward(trainer, iter([pending(output)]), share)
    return meter.take()


def test_metrics_are_means_over_all_samples_of_all_ranks_each_counted_once(tmp_path: Path) -> None:
    assert run_ranks(means_of_two_ranks, 2, tmp_path) == {"reward": 3.0}
