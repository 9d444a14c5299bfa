"""DPM-Solver++ against the Euler step, the exact solution for normal data, and diffusers' scheduler."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from srpo_ray.flow import dpm_solver_step, euler_step, shifted_sigmas


def velocity_of(x: Tensor, sigma: float) -> Tensor:
    """Exact velocity for normal data of standard deviation 1, whose path has the variance `(1 - s)^2 + s^2`."""
    return x * (2 * sigma - 1) / ((1 - sigma) ** 2 + sigma**2)


def test_first_step_and_the_step_to_data_are_euler_steps() -> None:
    x, velocity, earlier = torch.randn(3, 2, 5, 3, dtype=torch.float64)
    for here, there, before in ((1.0, 0.8, None), (0.7, 0.4, None), (0.3, 0.0, (earlier, 0.5))):
        sigmas = (torch.full((2,), sigma, dtype=torch.float64) for sigma in (here, there))
        expected = euler_step(x, velocity, *sigmas)
        found = dpm_solver_step(x, x - here * velocity, here, there, before)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def solve(num_steps: int, order: int) -> float:
    """Solution at sigma 0.1 from 1 at sigma 0.9."""
    x, before = torch.ones(1, dtype=torch.float64), None
    for here, there in pairwise(torch.linspace(0.9, 0.1, num_steps + 1, dtype=torch.float64).tolist()):
        clean = x - here * velocity_of(x, here)
        x = dpm_solver_step(x, clean, here, there, before)
        before = (clean, here) if order == 2 else None
    return x.item()


def test_error_falls_with_the_square_of_the_number_of_steps() -> None:
    # The flow keeps x over its standard deviation, which is the same at 0.9 and 0.1.
    errors = {order: [abs(solve(steps, order) - 1) for steps in (200, 400)] for order in (1, 2)}
    assert math.log2(errors[1][0] / errors[1][1]) == pytest.approx(1, abs=0.1)
    assert math.log2(errors[2][0] / errors[2][1]) == pytest.approx(2, abs=0.1)


def test_steps_are_those_of_diffusers() -> None:
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, lower_order_final=False
    )
    scheduler.set_timesteps(6)
    sigmas = [float(sigma) for sigma in scheduler.sigmas]
    x = expected = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = None
    for timestep, (here, there) in zip(scheduler.timesteps, pairwise(sigmas), strict=True):
        output = velocity_of(expected, here)
        expected = scheduler.step(output, timestep, expected, return_dict=False)[0]
        clean = x - here * velocity_of(x, here)
        x = dpm_solver_step(x, clean, here, there, before)
        before = (clean, here)
    assert max(sigmas) < 1
    torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5)
    assert shifted_sigmas(6, 3.0)[-1] == sigmas[-1] == 0
