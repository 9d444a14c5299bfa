"""SDE steps against the marginal distribution that they must preserve, and log-densities against torch's."""

from itertools import pairwise

import pytest
import torch

from srpo_ray.flow import euler_step, log_density, sde_step, shifted_sigmas


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
