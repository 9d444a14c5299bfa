"""Requests to the rewards, which keep the pixels of their images, are released once an update has its advantages."""

import gc
import weakref
from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from srpo_ray.algorithms import build_algorithm
from srpo_ray.config import RunConfig, apply
from srpo_ray.rewards.base import RewardScorer, Scores
from srpo_ray.rewards.query import TextQuery
from tests.helpers.algorithms.stand_ins import AffinePolicy, collect_all, make_batch

GROUP = 3


class Request:
    """Request that keeps its images."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def result(self) -> Scores:
        total = self.images.mean(dim=(1, 2))
        return Scores(total, {"mean": total}, {"mean": 1.0})


class Requests:
    """Scorer that knows which of its requests are still referenced."""

    def __init__(self) -> None:
        self.made: list[weakref.ref[Request]] = []

    def submit(self, images: Tensor, queries: Sequence[TextQuery]) -> Request:
        request = Request(images)
        self.made.append(weakref.ref(request))
        return request


@pytest.mark.parametrize("kind", ["dance_grpo", "awm"])
def test_update_keeps_no_pixels_once_it_has_its_advantages(kind: str, tiny_run: RunConfig) -> None:
    rewards, policy = Requests(), cast(Any, AffinePolicy())
    config = apply(tiny_run, {"rollout.num_steps": 6, "algorithm.type": kind, "algorithm.group_size": GROUP})
    algorithm = build_algorithm(config, policy, cast(RewardScorer, rewards))
    batch = make_batch(2, children=range(GROUP))
    (settled,) = collect_all(algorithm, [batch])
    gc.collect()
    assert rewards.made
    assert not [request for request in rewards.made if request() is not None]
    metrics = [loss().metrics["reward/total/sample"] for loss in algorithm.losses(batch, settled)]
    assert metrics[0].shape == torch.Size([2 * GROUP])
