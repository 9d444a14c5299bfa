"""Mathematics of rectified flow: sigma grids, the straight path, ODE and SDE steps, addressed random draws."""

from srpo_ray.flow.draws import Draws, DrawScope, generator
from srpo_ray.flow.path import mix, per_sample, recover_clean, renoise
from srpo_ray.flow.sigmas import (
    SigmaGrid,
    even_sigmas,
    flux_shift,
    numeric_grid,
    shift_at,
    shifted_sigmas,
    window_sigmas,
)
from srpo_ray.flow.solvers import dpm_solver_step
from srpo_ray.flow.transitions import euler_step, log_density, sde_step, stochastic_step

__all__ = [
    "DrawScope",
    "Draws",
    "SigmaGrid",
    "dpm_solver_step",
    "euler_step",
    "even_sigmas",
    "flux_shift",
    "generator",
    "log_density",
    "mix",
    "numeric_grid",
    "per_sample",
    "recover_clean",
    "renoise",
    "sde_step",
    "shift_at",
    "shifted_sigmas",
    "stochastic_step",
    "window_sigmas",
]
