"""Losses of forward-process methods at one point, against gradients derived by hand, in float64."""

import math

import pytest
import torch
from torch import Tensor

from srpo_ray.algorithms.forward_losses import (
    advantage_weighted,
    best_weights,
    centred_regression,
    clipped_ratio,
    matching_error,
    negative_aware,
    optimality,
    softmax_weights,
    weighted_error,
)
from srpo_ray.config.algorithms.awm import ErrorWeighting

SHAPE = (3, 4, 5)
ELEMENTS = 20
SIGMA = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64)
ADVANTAGES = torch.tensor([1.5, -2.0, 0.0], dtype=torch.float64)


def drawn(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(loss: Tensor, velocity: Tensor) -> Tensor:
    return torch.autograd.grad(loss.sum(), velocity)[0]


def column(values: Tensor) -> Tensor:
    return values[:, None, None]


def error_gradient(velocity: Tensor, target: Tensor) -> Tensor:
    """Gradient of the mean squared difference, by hand."""
    return 2 * (velocity - target) / ELEMENTS


def test_matching_error_is_a_mean_over_elements() -> None:
    assert matching_error(torch.full(SHAPE, 3.0), torch.ones(SHAPE)).tolist() == [4.0, 4.0, 4.0]


@pytest.mark.parametrize(
    ("weighting", "factor", "sigma_power", "power"),
    [("plain", 1.0, 0, 1.0), ("sigma", 1.0, 1, 1.0), ("root", 1.0, 1, 0.5), ("huber", 4.0, 1, 0.25)],
)
def test_weighted_error_is_a_power_of_the_error(
    weighting: ErrorWeighting, factor: float, sigma_power: int, power: float
) -> None:
    error = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64, requires_grad=True)
    found = weighted_error(error, SIGMA, weighting)
    scale = factor * SIGMA**sigma_power
    # A floor of 1e-10 is added to the error, and its power is subtracted again.
    expected = scale * (error.detach() ** power - (1e-10**power if power < 1 else 0))
    torch.testing.assert_close(found.detach(), expected, rtol=1e-9, atol=1e-12)
    (slope,) = torch.autograd.grad(found.sum(), error)
    torch.testing.assert_close(slope, scale * power * error.detach() ** (power - 1), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("weighting", ["plain", "sigma", "root", "huber"])
def test_exact_velocity_has_no_loss_and_a_finite_gradient(weighting: ErrorWeighting) -> None:
    velocity = drawn(0).requires_grad_()
    error = matching_error(velocity, velocity.detach().clone())
    loss = weighted_error(error, SIGMA, weighting)
    assert loss.tolist() == [0.0, 0.0, 0.0]
    assert gradient(loss, velocity).abs().max().item() == 0


def test_gradient_of_awm_on_policy_is_the_advantage_times_that_of_the_error() -> None:
    velocity, target = drawn(0).requires_grad_(), drawn(1)
    error = matching_error(velocity, target)
    expected = column(ADVANTAGES) * error_gradient(velocity.detach(), target)
    ratio, outside = clipped_ratio(error, error.detach(), ADVANTAGES, 0.2)
    assert outside.tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(gradient(ratio, velocity), expected, rtol=1e-12, atol=1e-15)
    plain = advantage_weighted(matching_error(velocity, target), ADVANTAGES)
    torch.testing.assert_close(gradient(plain, velocity), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("advantage", "log_ratio", "has_gradient"),
    # A good image is pushed until its likelihood has grown by the range, a bad one until it has fallen by it.
    [(1.0, 0.5, False), (1.0, -0.5, True), (-1.0, 0.5, True), (-1.0, -0.5, False), (1.0, 0.1, True)],
)
def test_ratio_outside_its_range_has_no_gradient_that_moves_it_further(
    advantage: float, log_ratio: float, has_gradient: bool
) -> None:
    minus_log = torch.tensor([1.0 - log_ratio], dtype=torch.float64, requires_grad=True)
    old, advantages = torch.ones(1, dtype=torch.float64), torch.tensor([advantage], dtype=torch.float64)
    loss, outside = clipped_ratio(minus_log, old, advantages, 0.2)
    ratio = math.exp(log_ratio)
    assert loss.item() == pytest.approx(max(-advantage * ratio, -advantage * min(max(ratio, 0.8), 1.2)))
    assert bool(outside.item()) == (abs(log_ratio) > 0.2)
    (slope,) = torch.autograd.grad(loss.sum(), minus_log)
    assert slope.item() == pytest.approx(advantage * ratio if has_gradient else 0.0)


def test_advantages_become_rewards_between_zero_and_one() -> None:
    advantages = torch.tensor([-9.0, -5.0, 0.0, 2.5, 5.0, 9.0])
    assert optimality(advantages, 5.0).tolist() == [0.0, 0.0, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize("strength", [0.1, 1.0, 2.0])
def test_gradient_of_nft_at_the_old_weights_is_that_of_awm_with_its_weight(strength: float) -> None:
    velocity, target = drawn(0).requires_grad_(), drawn(1)
    loss = negative_aware(velocity, velocity.detach(), target, SIGMA, optimality(ADVANTAGES, 5.0), strength, 5.0)
    distance = (velocity.detach() - target).abs().mean(dim=(1, 2))
    expected = column(ADVANTAGES * SIGMA / distance) * error_gradient(velocity.detach(), target)
    torch.testing.assert_close(gradient(loss, velocity), expected, rtol=1e-12, atol=1e-15)


def test_nft_away_from_the_old_weights_is_the_error_of_both_clean_images() -> None:
    velocity, old, clean, noise = drawn(0), drawn(1), drawn(2), drawn(3)
    noisy = (1 - column(SIGMA)) * clean + column(SIGMA) * noise
    rewards, strength = optimality(ADVANTAGES, 5.0), 0.3

    def clean_loss(guess: Tensor) -> Tensor:
        residual = noisy - column(SIGMA) * guess - clean
        return residual.pow(2).mean(dim=(1, 2)) / residual.abs().mean(dim=(1, 2))

    positive = strength * velocity + (1 - strength) * old
    negative = (1 + strength) * old - strength * velocity
    expected = 5 / strength * (rewards * clean_loss(positive) + (1 - rewards) * clean_loss(negative))
    found = negative_aware(velocity, old, noise - clean, SIGMA, rewards, strength, 5.0)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_minimum_of_centred_distillation_has_gains_like_the_centred_rewards() -> None:
    rewards = torch.tensor([0.1, 0.7, 0.4, 0.8], dtype=torch.float64)
    centred = rewards - rewards.mean()
    gain = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    for _ in range(200):
        loss = centred_regression(gain, gain.detach().mean(), centred, 2.0).sum()
        (slope,) = torch.autograd.grad(loss, gain)
        gain = (gain - 0.1 * slope).detach().requires_grad_()
    torch.testing.assert_close(2.0 * (gain - gain.mean()), centred, rtol=1e-9, atol=1e-9)


def test_weights_of_the_best_images_are_equal_and_average_one() -> None:
    rewards = torch.tensor([[0.1, 0.9, 0.5, 0.2], [1.0, 1.0, 1.0, 1.0], [3.0, 1.0, 3.0, 3.0]])
    assert best_weights(rewards, 1).tolist() == [[0, 4, 0, 0], [1, 1, 1, 1], [4, 0, 0, 0]]
    assert best_weights(rewards, 2).tolist() == [[0, 2, 2, 0], [1, 1, 1, 1], [2, 0, 2, 0]]


def test_softmax_weights_grow_by_e_per_temperature_and_average_one() -> None:
    weights = softmax_weights(torch.tensor([[0.2, 0.5, 0.8]], dtype=torch.float64), 0.3)
    assert weights.mean().item() == pytest.approx(1)
    assert (weights[0, 1:] / weights[0, :-1]).tolist() == pytest.approx([math.e, math.e])


def test_centred_distillation_ignores_a_gain_that_all_images_of_a_prompt_have() -> None:
    gain = torch.tensor([0.3, -0.1, 0.2], dtype=torch.float64)
    losses = [centred_regression(gain + shift, (gain + shift).mean(), ADVANTAGES / 10, 2.0) for shift in (0.0, 5.0)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-9, atol=1e-12)
    expected = (2 * (gain - gain.mean()) - ADVANTAGES / 10).pow(2)
    torch.testing.assert_close(losses[0], expected, rtol=1e-12, atol=1e-12)
