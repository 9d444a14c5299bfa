"""Names of the small world's truths in the config layer, which imports no torch, against those that are measured."""

import torch

from srpo_ray.config.objective import TRUTHS
from srpo_ray.small_world.prompts import split_prompts
from srpo_ray.small_world.tastes import utilities
from srpo_ray.small_world.truth import measure


def test_names_that_a_config_may_use_are_those_of_the_measured_truths() -> None:
    truth = measure(torch.rand(1, 3, 64, 64), split_prompts("test")[:1])
    assert sorted(TRUTHS) == sorted(truth | utilities(truth))
