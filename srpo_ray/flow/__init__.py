"""The maths of rectified flow: sigma grids, the straight path, Euler steps, addressed noise."""

from srpo_ray.flow.noise import generator, uniform_integer
from srpo_ray.flow.path import mix, per_sample, recover_clean
from srpo_ray.flow.schedule import flux_shift, shifted_sigmas, window_sigmas
from srpo_ray.flow.step import euler_step

__all__ = [
    "euler_step",
    "flux_shift",
    "generator",
    "mix",
    "per_sample",
    "recover_clean",
    "shifted_sigmas",
    "uniform_integer",
    "window_sigmas",
]
