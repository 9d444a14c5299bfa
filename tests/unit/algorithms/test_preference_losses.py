"""Losses of preferences against closed forms in float64."""

import math
from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor

from srpo_ray.algorithms import preference_losses as losses
from srpo_ray.algorithms.preference_sigmas import drawn_sigmas, grid_sigmas, shifted
from srpo_ray.config.algorithms.preference_options import ErrorSpace
from srpo_ray.config.algorithms.preference_parts import PointSigmas

VALUES = torch.linspace(-3, 3, 13, dtype=torch.float64)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slope(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Derivative of a function of each value, by autograd."""
    values = at.clone().requires_grad_()
    function(values).sum().backward()
    assert values.grad is not None
    return values.grad


@pytest.mark.parametrize("space", ["velocity", "image", "noise"])
def test_errors_of_image_and_noise_are_those_of_the_velocity_times_a_power_of_sigma(space: str) -> None:
    clean, noise, velocity = drawn(5, 2, 3), drawn(5, 2, 3, seed=1), drawn(5, 2, 3, seed=2)
    sigma = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    s = sigma[:, None, None]
    point = (1 - s) * clean + s * noise
    predicted = {"velocity": velocity, "image": point - s * velocity, "noise": point + (1 - s) * velocity}
    wanted = {"velocity": noise - clean, "image": clean, "noise": noise}
    expected = (predicted[space] - wanted[space]).pow(2).mean(dim=(1, 2))
    found = losses.space_factor(sigma, cast(ErrorSpace, space)) * (velocity - noise + clean).pow(2).mean(dim=(1, 2))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_logistic_loss_is_the_smoothed_cross_entropy_of_the_preference() -> None:
    for smoothing in (0.0, 0.1, 0.4):
        likely = 1 / (1 + torch.exp(-VALUES))
        expected = -(1 - smoothing) * torch.log(likely) - smoothing * torch.log(1 - likely)
        found = losses.logistic(VALUES, smoothing)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        # The minimum is at the log-odds of the assumed share of right preferences.
        torch.testing.assert_close(slope(lambda z, p=smoothing: losses.logistic(z, p), VALUES), likely - 1 + smoothing)
    assert losses.logistic(torch.zeros(1)).item() == pytest.approx(math.log(2))


def test_squared_margin_is_least_at_half_the_inverse_of_beta() -> None:
    torch.testing.assert_close(losses.squared_margin(VALUES, 0.25), (VALUES - 2) ** 2)


def test_hinge_has_no_gradient_from_its_limit_on() -> None:
    at = torch.tensor([-1.0, 0.4, 0.6, 2.0], dtype=torch.float64)
    torch.testing.assert_close(losses.hinge(at, 0.5), torch.tensor([1.5, 0.1, 0.0, 0.0], dtype=torch.float64))
    assert slope(lambda margin: losses.hinge(margin, 0.5), at).tolist() == [-1, -1, 0, 0]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_desirability_at_its_baseline_is_a_half_with_a_quarter_of_beta_as_slope(sign: float) -> None:
    beta, baseline, signs = 3.0, torch.tensor(0.7, dtype=torch.float64), torch.tensor([sign], dtype=torch.float64)
    at = torch.tensor([0.7], dtype=torch.float64)
    assert losses.desirability(at, signs, beta, baseline).item() == pytest.approx(0.5)
    found = slope(lambda gain: losses.desirability(gain, signs, beta, baseline), at)
    assert found.item() == pytest.approx(-sign * beta / 4)


def test_baseline_is_the_mean_of_the_gains_but_not_below_zero_and_a_constant() -> None:
    gains = torch.tensor([0.5, 1.5, -0.5], dtype=torch.float64, requires_grad=True)
    assert losses.baseline_of(gains).item() == pytest.approx(0.5)
    assert losses.baseline_of(-gains).item() == 0
    assert not losses.baseline_of(gains).requires_grad


def test_score_of_an_error_is_its_formula_and_smooth_at_zero() -> None:
    errors = torch.tensor([0.0, 1e-6, 1e-3, 0.5, 2.0, 40.0], dtype=torch.float64)
    for a in (0.5, 2.0):
        expected = torch.where(errors == 0, 1.0, a * errors / torch.expm1(a * errors).clamp(min=1e-300))
        torch.testing.assert_close(losses.error_score(errors, a), expected, rtol=1e-9, atol=1e-15)
        found = slope(lambda e, a=a: losses.error_score(e, a), errors)
        assert found[0].item() == pytest.approx(-a / 2)
        # The slope is that of a difference quotient, also where the series takes over.
        step = 1e-6
        quotient = (
            (losses.error_score(errors + 2e-4 + step, a) - losses.error_score(errors + 2e-4 - step, a)) / 2 / step
        )
        moved = slope(lambda e, a=a: losses.error_score(e, a), errors + 2e-4)
        torch.testing.assert_close(moved, quotient, rtol=1e-5, atol=1e-8)


def test_mapo_is_preference_without_reference_at_half_the_slope_times_its_curvature() -> None:
    """The release's beta 1000 at a = 0.5 is `beta / 2 m` with beta 500 where errors are small."""
    preferred, other = torch.tensor([2e-4], dtype=torch.float64), torch.tensor([5e-4], dtype=torch.float64)
    logit = 1000 * (losses.error_score(preferred, 0.5) - losses.error_score(other, 0.5))
    torch.testing.assert_close(logit, 500 / 2 * (other - preferred), rtol=1e-3, atol=0)


@pytest.mark.parametrize("share", [0.0, 0.6, 0.9, 1.0])
def test_other_image_leaves_the_preferred_one_its_share_of_the_descent(share: float) -> None:
    preferred, other = drawn(200, 2, 3), 3 * drawn(200, 2, 3, seed=1)
    other[100:] += 2 * preferred[100:]
    allowed = losses.allowed_share(preferred, other, share)
    assert allowed.min() >= 0
    assert allowed.max() <= 1
    descent = ((-preferred + allowed[:, None, None] * other) * preferred).sum(dim=(1, 2))
    square = preferred.pow(2).sum(dim=(1, 2))
    assert (descent <= -share * square + 1e-9).all()
    # It is the largest such factor: below 1, the bound is reached.
    reached = allowed < 1
    assert reached.any()
    torch.testing.assert_close(descent[reached], -share * square[reached], rtol=1e-9, atol=1e-12)
    # An image that does not oppose the preferred one keeps its whole gradient.
    assert (allowed[(preferred * other).sum(dim=(1, 2)) <= 0] == 1).all()


def test_scaled_gradient_changes_no_value() -> None:
    factor = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    at = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert torch.equal(losses.scale_gradient(at, factor), at)
    torch.testing.assert_close(slope(lambda x: losses.scale_gradient(x, factor), at), factor)


def test_trust_falls_from_one_to_the_inverse_of_one_plus_the_temperature() -> None:
    logit = torch.tensor([-100.0, 0.0, 100.0], dtype=torch.float64, requires_grad=True)
    found = losses.trust(logit, 10.0, 2.0)
    torch.testing.assert_close(found, torch.tensor([1 / 11, 1 / 6, 1.0], dtype=torch.float64))
    assert not found.requires_grad
    assert (losses.trust(logit, 0.0, 2.0) == 1).all()


def test_sigmas_are_quantiles_of_the_shifted_distribution() -> None:
    count = 4001
    share = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    uniform = drawn_sigmas(PointSigmas(type="uniform", shift=3.0), share)
    torch.testing.assert_close(uniform, 3 * share / (1 + 2 * share))
    normal = drawn_sigmas(PointSigmas(mean=0.4, std=0.7, shift=2.0), share)
    numbers = torch.logit(shifted(normal, 1 / 2.0))
    assert numbers.mean().item() == pytest.approx(0.4, abs=1e-3)
    assert numbers.std().item() == pytest.approx(0.7, abs=2e-3)
    assert (normal.diff() > 0).all()


@pytest.mark.parametrize("kind", ["uniform", "logit_normal"])
def test_window_cuts_the_distribution_and_does_not_squeeze_it(kind: str) -> None:
    share = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    whole = drawn_sigmas(PointSigmas.model_validate({"type": kind}), share)
    cut = drawn_sigmas(PointSigmas.model_validate({"type": kind, "window": (0.3, 0.8)}), share)
    assert cut.min() >= 0.3
    assert cut.max() <= 0.8
    inside = whole[(whole > 0.3) & (whole < 0.8)]
    assert cut.median().item() == pytest.approx(inside.median().item(), abs=2e-3)


def test_grid_draws_every_sigma_of_the_sampler_in_the_window_equally_often_and_never_zero() -> None:
    grid = torch.tensor([1.0, 0.9, 0.75, 0.5, 0.0], dtype=torch.float64)
    share = (torch.arange(300, dtype=torch.float64) + 0.5) / 300
    found = grid_sigmas(PointSigmas(type="grid", window=(0.6, 1.0)), share, grid)
    assert {value: (found == value).sum().item() for value in (1.0, 0.9, 0.75)} == {1.0: 100, 0.9: 100, 0.75: 100}
    with pytest.raises(ValueError, match="none among"):
        grid_sigmas(PointSigmas(type="grid", window=(0.1, 0.4)), share, grid)
