"""How often each algorithm calls the model, against a policy that counts its calls."""

from typing import Any, cast

import pytest
from torch import Tensor

from srpo_ray.algorithms import build_algorithm
from srpo_ray.config import RunConfig, apply
from srpo_ray.planning.schedule import micro_batches, schedule
from srpo_ray.rewards.base import RewardScorer
from srpo_ray.rewards.query import TextQuery
from tests.algorithms.stand_ins import AffinePolicy, make_batch


class Unasked:
    """Takes pictures and is never asked for their scores."""

    def submit(self, images: Tensor, queries: list[TextQuery]) -> None:
        """Do nothing."""


CASES: dict[str, dict[str, object]] = {
    "srpo": {"algorithm.renoisings": 2},
    "srpo, one branch": {"algorithm.branches": ["denoise"]},
    "direct_align": {"algorithm.type": "direct_align"},
    "refl": {"algorithm.type": "refl"},
    "draft": {"algorithm.type": "draft"},
    "draft of two steps": {"algorithm.type": "draft", "algorithm.num_steps": 2, "algorithm.renoisings": 0},
    "align_prop": {"algorithm.type": "align_prop"},
    "dance_grpo": {"algorithm.type": "dance_grpo", "algorithm.group_size": 3},
}


@pytest.mark.parametrize("case", CASES)
def test_calls_are_those_that_the_algorithm_makes(case: str, tiny_run: RunConfig) -> None:
    config = apply(tiny_run, {"rollout.num_steps": 10, **CASES[case]})
    plan, updates = schedule(config), 200
    policy: Any = AffinePolicy()
    algorithm = build_algorithm(config, policy, cast(RewardScorer, Unasked()))
    losses = 0
    for step in range(updates):
        batch = make_batch(size=1, step=step)
        losses += len(list(algorithm.losses(batch, algorithm.collect(batch))))
    with_gradient = sum(carried for carried, _, _ in policy.calls)
    assert losses == updates * plan.losses
    assert plan.in_flight == min(algorithm.losses_in_flight, plan.losses)
    assert with_gradient / losses == pytest.approx(plan.mean_chained, rel=0.1)
    assert (len(policy.calls) - with_gradient) / updates == pytest.approx(plan.forward, rel=0.1)
    assert plan.chained >= plan.mean_chained


def test_samples_are_those_of_a_micro_batch(tiny_run: RunConfig) -> None:
    config = apply(tiny_run, {"training.batch_size": 12, "training.num_workers": 2, "training.micro_batch_size": 2})
    assert (schedule(config).samples, micro_batches(config)) == (2, 3)
    grouped = apply(config, {"algorithm.type": "dance_grpo", "algorithm.group_size": 5})
    assert schedule(grouped).samples == 10


def test_losses_in_flight_can_be_fewer_than_the_algorithm_wants(tiny_run: RunConfig) -> None:
    assert schedule(tiny_run).in_flight == 2
    assert schedule(apply(tiny_run, {"training.losses_in_flight": 1})).in_flight == 1


def test_real_pictures_need_no_rollout(tiny_run: RunConfig) -> None:
    assert schedule(apply(tiny_run, {"data.images": "small_world:realistic"})).forward == 0
