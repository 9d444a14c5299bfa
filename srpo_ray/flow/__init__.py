"""The maths of rectified flow: sigma grids, the straight path, Euler steps, addressed noise."""

from srpo_ray.flow.noise import generator, uniform_integer
from srpo_ray.flow.path import mix, per_sample, recover_clean
from srpo_ray.flow.schedule import even_sigmas, flux_shift, shift_at, shifted_sigmas, window_sigmas
from srpo_ray.flow.step import euler_step

__all__ = [
    "euler_step",
    "even_sigmas",
    "flux_shift",
    "generator",
    "mix",
    "per_sample",
    "recover_clean",
    "shift_at",
    "shifted_sigmas",
    "uniform_integer",
    "window_sigmas",
]
