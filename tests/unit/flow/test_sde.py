"""Stochastic steps against the distributions that they must preserve, and log-densities against torch's."""

from itertools import pairwise
from typing import Any

import pytest
import torch

from srpo_ray.flow import euler_step, log_density, sde_step, shifted_sigmas, stochastic_step


def test_without_noise_it_is_the_euler_step() -> None:
    x, velocity = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    here, there = torch.full((5,), 0.8, dtype=torch.float64), torch.full((5,), 0.6, dtype=torch.float64)
    mean, std = sde_step(x, velocity, here, there, 0.0)
    torch.testing.assert_close(mean, euler_step(x, velocity, here, there), rtol=0, atol=1e-15)
    assert std.abs().max() == 0


@pytest.mark.parametrize("eta", [0.3, 0.7])
def test_many_small_steps_keep_mean_and_variance_of_the_path_at_every_sigma(eta: float) -> None:
    """For normal data the exact velocity is affine in x, so mean and variance move by closed formulas."""
    data_mean, data_variance = 1.5, 0.4
    grid = shifted_sigmas(2_000, 1.0)
    mean, variance = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for here, there in pairwise(grid):
        if there < 0.02:
            break

        def moved(x: torch.Tensor, here: torch.Tensor = here, there: torch.Tensor = there) -> tuple[torch.Tensor, ...]:
            spread = (1 - here) ** 2 * data_variance + here**2
            slope = (here - (1 - here) * data_variance) / spread
            velocity = -data_mean + slope * (x - (1 - here) * data_mean)
            return sde_step(x[None], velocity[None], here[None], there[None], eta)

        at_mean, std = moved(mean)
        gain = moved(mean + 1)[0] - at_mean
        mean, variance = at_mean[0], (gain**2 * variance + std**2)[0]
        if round(there.item() * 2_000) % 200 == 0:
            assert mean.item() == pytest.approx((1 - there.item()) * data_mean, abs=5e-3)
            expected = (1 - there.item()) ** 2 * data_variance + there.item() ** 2
            assert variance.item() == pytest.approx(expected, rel=1e-2)


def test_log_density_is_the_mean_of_a_normals() -> None:
    x, mean = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    std = torch.rand(4, 1, 1, dtype=torch.float64) + 0.1
    expected = torch.distributions.Normal(mean, std).log_prob(x).mean(dim=(1, 2))
    torch.testing.assert_close(log_density(x, mean, std), expected, rtol=1e-12, atol=1e-12)


def exact_velocity(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """For normal data of standard deviation 1."""
    return x * (2 * sigma - 1) / ((1 - sigma) ** 2 + sigma**2)


def spread_of_samples(num_steps: int, settings: dict[str, Any] | None) -> float:
    """Standard deviation of the sampler's results, whose steps are linear in x; the last step has no noise."""
    grid, variance = shifted_sigmas(num_steps, 3.0), 1.0
    one = torch.ones(1, dtype=torch.float64)
    for here, there in pairwise(grid.split(1)):
        velocity = exact_velocity(one, here)
        if settings is None or there == 0:
            gain, std = euler_step(one, velocity, here, there), 0.0
        else:
            gain, std = stochastic_step(one, velocity, here, there, **settings)
        variance = float(gain) ** 2 * variance + float(std) ** 2
    return variance**0.5


@pytest.mark.parametrize(
    ("settings", "spreads"),
    [
        (None, (0.833, 0.964, 0.998)),
        ({"step": "euler_maruyama", "noise": "flow", "strength": 0.7}, (0.896, 0.982, 1.001)),
        ({"step": "frozen", "noise": "flow", "strength": 0.7}, (0.807, 0.955, 0.998)),
        ({"step": "frozen", "noise": "cps", "strength": 0.8}, (0.683, 0.770, 0.804)),
        ({"step": "frozen", "noise": "cps", "strength": 0.5}, (0.774, 0.885, 0.920)),
    ],
)
def test_spread_of_the_samples_of_normal_data(settings: dict[str, Any] | None, spreads: tuple[float, ...]) -> None:
    """All but CPS converge to the data's 1; the values come from a recursion in Python that shares no code."""
    for num_steps, spread in zip((10, 50, 1000), spreads, strict=True):
        assert spread_of_samples(num_steps, settings) == pytest.approx(spread, abs=6e-4)


SETTINGS: list[dict[str, Any]] = [
    {"step": "euler_maruyama", "noise": "constant", "strength": 0.3},
    {"step": "euler_maruyama", "noise": "flow", "strength": 0.7},
    {"step": "frozen", "noise": "constant", "strength": 0.3},
    {"step": "frozen", "noise": "flow", "strength": 0.7},
    {"step": "frozen", "noise": "cps", "strength": 0.8},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: f"{settings['step']}, {settings['noise']}")
def test_step_without_noise_is_the_euler_step(settings: dict[str, Any]) -> None:
    x, velocity = torch.randn(2, 3, 4, 2, dtype=torch.float64)
    here, there = torch.tensor([[0.97, 0.8, 0.3], [0.9, 0.5, 0.1]], dtype=torch.float64)
    mean, std = stochastic_step(x, velocity, here, there, **{**settings, "strength": 1e-7})
    torch.testing.assert_close(mean, euler_step(x, velocity, here, there), rtol=0, atol=1e-9)
    assert std.max() < 1e-6
    assert std.shape == (3, 1, 1)


@pytest.mark.parametrize("noise", ["constant", "flow", "cps"])
def test_frozen_step_of_the_true_clean_image_keeps_the_noise_at_variance_one(noise: Any) -> None:
    source = torch.Generator().manual_seed(0)
    clean = torch.randn(1, 200_000, dtype=torch.float64, generator=source)
    here, there = torch.tensor([0.7], dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64)
    before = torch.randn(clean.shape, dtype=torch.float64, generator=source)
    x = 0.3 * clean + 0.7 * before
    mean, std = stochastic_step(x, before - clean, here, there, step="frozen", noise=noise, strength=0.6)
    after = (mean + std * torch.randn(clean.shape, dtype=torch.float64, generator=source) - 0.6 * clean) / 0.4
    assert after.std().item() == pytest.approx(1, abs=0.01)
    # New noise has a share of its own: the correlation with the old one is below 1.
    assert 0.3 < (after * before).mean().item() < 0.97
    assert (after * clean).mean().item() == pytest.approx(0, abs=0.01)


def test_step_to_data_of_a_frozen_sampler_has_no_noise() -> None:
    x, velocity = torch.randn(2, 1, 4, 2, dtype=torch.float64)
    here, there = torch.tensor([0.2], dtype=torch.float64), torch.tensor([0.0], dtype=torch.float64)
    for settings in SETTINGS[2:]:
        mean, std = stochastic_step(x, velocity, here, there, **settings)
        assert std.item() == 0
        torch.testing.assert_close(mean, x - 0.2 * velocity, rtol=0, atol=1e-14)
