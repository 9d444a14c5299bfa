"""How often each algorithm calls the model, against a policy that counts its calls."""

from dataclasses import dataclass
from typing import Any, Literal, cast

import pytest
import torch
from torch import Tensor

from srpo_ray.algorithms import Batch, build_algorithm
from srpo_ray.algorithms.registry import ALGORITHMS
from srpo_ray.config import RunConfig, apply
from srpo_ray.config.algorithms.base import AlgorithmSection
from srpo_ray.data.mixture import real_samples
from srpo_ray.flow import Draws
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.planning.duration import worker_work
from srpo_ray.planning.schedule import micro_batches, schedule
from srpo_ray.rewards.base import RewardScorer
from srpo_ray.rewards.query import TextQuery
from srpo_ray.training.rollouts import KeptRollouts
from tests.algorithms.stand_ins import SHAPE, AffinePolicy


class Unasked:
    """Takes images and is never asked for their scores."""

    def submit(self, images: Tensor, queries: list[TextQuery]) -> None:
        """Do nothing."""


class CountingPolicy(AffinePolicy):
    """Keeps how many samples each call of the model has."""

    def __init__(self) -> None:
        super().__init__()
        self.samples: dict[bool, list[int]] = {False: [], True: []}
        """With gradient or without -> samples of each call."""

    def velocity(self, tokens: Tensor, sigma: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        self.samples[torch.is_grad_enabled()].append(len(tokens))
        return super().velocity(tokens, sigma, conditioning, guidance_scale)


MIXED: dict[str, object] = {"data.images": "small_world:realistic", "data.image_ratio": 0.5}
CASES: dict[str, dict[str, object]] = {
    "srpo": {"algorithm.renoisings": 2},
    "srpo, one branch": {"algorithm.branches": ["denoise"]},
    "srpo, mixed data": MIXED,
    "srpo, real images": {"data.images": "small_world:realistic"},
    "srpo, reused": {"rollout.reuse": 5},
    "srpo, mixed and reused": MIXED | {"rollout.reuse": 5},
    "srpo, base model": {"rollout.source": "base_model"},
    "srpo, mixed with base model": MIXED | {"rollout.source": "base_model"},
    "direct_align": {},
    "direct_align, mixed data": MIXED,
    "refl": {},
    "refl, every step": {"algorithm.late_share": 1.0},
    "draft": {},
    "draft, two steps": {"algorithm.num_steps": 2, "algorithm.renoisings": 0},
    "draft, four renoisings": {"algorithm.renoisings": 4},
    "align_prop": {},
    "align_prop, normal cut": {"algorithm.cut": "normal"},
    "align_prop, early cut": {"algorithm.cut": "normal", "algorithm.cut_mean": 0.1, "algorithm.cut_std": 0.3},
    "dance_grpo": {"algorithm.group_size": 3},
    "dance_grpo, every step": {"algorithm.step_share": 1.0},
}


@dataclass(frozen=True)
class Counted:
    """Means over the updates of a run."""

    forward: float
    chained: float
    losses: float
    in_flight: int
    samples: set[int]
    rolled_out: set[int]


def count(config: RunConfig, updates: int) -> Counted:
    """Run an algorithm's updates on the counting policy, with a micro-batch as the trainer makes it."""
    policy: Any = CountingPolicy()
    algorithm = build_algorithm(config, policy, cast(RewardScorer, Unasked()))
    size = config.training.pass_size
    is_real = real_samples(size, config.data.image_ratio if config.data.images else 0.0)
    tokens = torch.zeros(SHAPE, dtype=torch.float64)
    base_model = config.rollout.source == "base_model"
    real = {row: tokens for row, image in enumerate(is_real) if image or base_model}
    kept = KeptRollouts(config.rollout.reuse)
    conditioning = Conditioning(torch.zeros(size, 1, 1), torch.zeros(size, 1))
    losses = 0
    for step in range(updates):
        given = kept.tokens(step, range(size)) or real
        batch = Batch(("a prompt",) * size, conditioning, Draws(config.seed, step, tuple(range(size))), given)
        collected = algorithm.collect(batch)
        kept.keep(step, [(batch, 1.0, collected)])
        losses += len(list(algorithm.losses(batch, collected)))
    without, carried = policy.samples[False], policy.samples[True]
    return Counted(
        len(without) / updates,
        len(carried) / losses,
        losses / updates,
        algorithm.losses_in_flight,
        set(carried),
        set(without),
    )


def test_every_algorithm_has_a_case() -> None:
    assert {case.split(",")[0] for case in CASES} == set(ALGORITHMS)


@pytest.mark.parametrize("case", CASES)
def test_planned_calls_are_those_that_the_algorithm_makes(case: str, tiny_run: RunConfig) -> None:
    own = {"algorithm.type": case.split(",")[0], "rollout.num_steps": 10, "training.batch_size": 2}
    config = apply(tiny_run, {**own, **CASES[case]})
    drawn = config.algorithm.type in ("refl", "align_prop")
    plan, found = schedule(config), count(config, updates=400 if drawn else 5)
    assert (found.losses, found.samples) == (plan.losses, {plan.samples})
    assert plan.in_flight == min(found.in_flight, plan.losses)
    assert found.chained == pytest.approx(plan.mean_chained, abs=0.4 if drawn else 0)
    assert found.forward == pytest.approx(plan.forward, abs=0.4 if drawn else 0)
    assert found.rolled_out == ({plan.rolled_out} if plan.rolled_out else set())
    assert plan.chained >= plan.mean_chained


def test_half_as_many_rollouts_are_planned_as_half_the_work(tiny_run: RunConfig) -> None:
    def rollout(changes: dict[str, object]) -> float:
        config = apply(tiny_run, {"training.batch_size": 4, **changes})
        return next(work.flops for work in worker_work(config, (32,)) if work.name.startswith("rollout"))

    assert rollout(MIXED) == pytest.approx(rollout({}) / 2)
    assert rollout({"data.images": "small_world:realistic"}) == 0
    assert rollout({"rollout.source": "base_model"}) == 0
    assert rollout({"rollout.reuse": 4}) == pytest.approx(rollout({}) / 4)


def test_algorithm_that_does_not_state_its_calls_cannot_be_configured() -> None:
    class Unplanned(AlgorithmSection):
        type: Literal["unplanned"] = "unplanned"

    with pytest.raises(TypeError, match="calls"):
        cast(Any, Unplanned)()


def test_samples_are_those_of_a_micro_batch(tiny_run: RunConfig) -> None:
    config = apply(tiny_run, {"training.batch_size": 12, "training.num_workers": 2, "training.micro_batch_size": 2})
    assert (schedule(config).samples, micro_batches(config)) == (2, 3)
    grouped = apply(config, {"algorithm.type": "dance_grpo", "algorithm.group_size": 5})
    assert schedule(grouped).samples == 10


def test_losses_in_flight_can_be_fewer_than_the_algorithm_wants(tiny_run: RunConfig) -> None:
    assert schedule(tiny_run).in_flight == 2
    assert schedule(apply(tiny_run, {"training.losses_in_flight": 1})).in_flight == 1
