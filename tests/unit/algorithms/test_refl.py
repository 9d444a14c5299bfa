"""ReFL against the gradient of its one-step prediction, by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from srpo_ray.algorithms.refl import ReFL
from srpo_ray.config.algorithms.refl import ReFLConfig
from srpo_ray.config.model import RolloutConfig
from tests.helpers.algorithms.stand_ins import (
    SHAPE,
    AffinePolicy,
    PromptRewards,
    as_policy,
    as_scorer,
    chain_by_hand,
    check_gradients,
    drawn_noise,
    grid,
    make_batch,
)

ROLLOUT = RolloutConfig(num_steps=25, guidance_scale=2.0)


def make(policy: AffinePolicy, hinge: float = 1e3, **config: Any) -> ReFL:
    return ReFL(ReFLConfig(hinge=hinge, **config), ROLLOUT, as_policy(policy), as_scorer(PromptRewards()))


def test_gradient_is_that_of_the_predicted_clean_image_alone() -> None:
    policy = AffinePolicy()
    algorithm = make(policy)
    (loss,) = [loss() for loss in algorithm.losses(make_batch(), algorithm.collect(make_batch()))]
    loss.loss.backward()

    stop = sum(not gradient for gradient, _, _ in policy.calls)
    before, _, _ = chain_by_hand(policy, drawn_noise(3, "rollout"), grid(25)[: stop + 1])
    clean, by_offset, by_slope = chain_by_hand(policy, before, [grid(25)[stop], 0.0])
    check_gradients(policy, [(1.0, by_offset, by_slope)])
    rewards = torch.tensor([1.0, 2.0, 3.0]) * clean.mean(dim=(1, 2))
    assert loss.loss.item() == pytest.approx(1e3 - rewards.mean().item(), rel=1e-9)
    torch.testing.assert_close(loss.metrics["reward/total/predicted"], rewards)
    assert {guidance for _, _, guidance in policy.calls} == {2.0}


def test_step_is_one_of_the_last_eleven_and_all_of_them_occur() -> None:
    stops = set()
    for step in range(150):
        policy = AffinePolicy()
        collected = make(policy).collect(make_batch(size=2, update=step))
        stops.add(len(policy.calls))
        assert collected.sigma.tolist() == pytest.approx([grid(25)[len(policy.calls)]] * 2)
    assert stops == set(range(14, 25))


def test_number_of_calls_does_not_depend_on_the_batch() -> None:
    counts = []
    for size in (1, 3):
        policy = AffinePolicy()
        make(policy).collect(make_batch(size))
        counts.append(len(policy.calls))
    assert counts[0] == counts[1]


def test_rewards_above_the_hinge_teach_nothing() -> None:
    policy = AffinePolicy()
    algorithm = make(policy, hinge=-1e3)
    (loss,) = [loss() for loss in algorithm.losses(make_batch(), algorithm.collect(make_batch()))]
    assert loss.loss.item() == 0
    assert loss.metrics["loss/below_hinge/predicted"].tolist() == [0, 0, 0]


def test_rollout_from_images_starts_at_the_first_late_step_and_every_fifth_from_noise() -> None:
    images = torch.randn(3, 1, *SHAPE, generator=torch.Generator().manual_seed(5)).double()
    first = grid(25)[19]
    for update in range(10):
        policy = AffinePolicy()
        algorithm = make(policy, start="image", plain_every=5, late_share=0.24)
        batch = replace(make_batch(update=update), images=images, image_rows=(0, 1, 2))
        (loss,) = [loss() for loss in algorithm.losses(batch, algorithm.collect(batch))]
        loss.loss.backward()
        stop = int(torch.tensor(grid(25)).sub(loss.metrics["step/sigma/predicted"][0]).abs().argmin())
        noise = drawn_noise(3, "rollout", update=update)
        plain = update in (4, 9)
        begin = noise if plain else (1 - first) * images[:, 0] + first * noise
        before, _, _ = chain_by_hand(policy, begin, grid(25)[0 if plain else 19 : stop + 1])
        _, by_offset, by_slope = chain_by_hand(policy, before, [grid(25)[stop], 0.0])
        check_gradients(policy, [(1.0, by_offset, by_slope)])
        assert sum(not gradient for gradient, _, _ in policy.calls) == stop - (0 if plain else 19)
