"""Draws of a batch: their ranges, which rows share them, and that no row's draw depends on the rows beside it."""

import math

import pytest
import torch

from srpo_ray.flow import Draws, generator


def test_uniform_draws_fill_their_range() -> None:
    found = Draws(0, 0, tuple(range(4000))).uniform("sigma", 0.25, 0.75)
    assert found.dtype == torch.float64
    assert found.min() >= 0.25
    assert found.max() < 0.75
    # Mean and deviation of a uniform draw, within four standard errors.
    assert found.mean().item() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(12 * 4000))
    assert found.std().item() == pytest.approx(0.5 / math.sqrt(12), rel=0.03)


def test_images_of_a_sample_share_draws_by_sample_and_have_draws_of_their_own_by_image() -> None:
    draws = Draws(3, 5, (0, 0, 1, 1), children=(0, 1, 0, 1))
    by_sample, by_image = (draws.uniform("sigma", 0, 1, scope=scope).tolist() for scope in ("per_sample", "per_image"))
    assert by_sample[0] == by_sample[1] != by_sample[2] == by_sample[3]
    assert len(set(by_image)) == 4
    parts = [Draws(3, 5, (0, 1), children=(1, 1), worker=1), Draws(3, 5, (1, 0), children=(0, 0))]
    alone = [part.uniform("sigma", 0, 1, scope="per_image").tolist() for part in parts]
    assert alone == [[by_image[1], by_image[3]], [by_image[2], by_image[0]]]


def test_draws_without_children_are_those_of_the_first_image() -> None:
    plain, first = Draws(3, 5, (4, 7)), Draws(3, 5, (4, 7), children=(0, 0))
    assert plain.images == first.images == [(4, 0), (7, 0)]
    assert plain.integers("update", 0, 10**9, scope="per_image") == first.integers(
        "update", 0, 10**9, scope="per_image"
    )


def test_integer_of_an_update_is_the_same_for_all_batches_and_workers() -> None:
    found = {Draws(3, 5, samples, worker).integer("stop", 2, 9) for samples, worker in (((0, 1), 0), ((2,), 1))}
    assert found == {int(torch.randint(2, 10, (), generator=generator(3, "stop", 5)))}
    values = [Draws(3, update, (0,)).integer("stop", 2, 4) for update in range(200)]
    assert set(values) == {2, 3, 4}
