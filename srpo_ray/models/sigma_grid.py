"""Sigma grids of a run's model: from a fixed shift, the resolution, or the pipeline's own scheduler."""

import json
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from srpo_ray.config.model import ModelConfig, Shift
from srpo_ray.flow import SigmaGrid, shift_at, shifted_sigmas
from srpo_ray.models.distilled import is_distilled, sample_sigmas
from srpo_ray.models.families import family_of
from srpo_ray.models.paths import pipeline_file, resolve_path, unreadable

if TYPE_CHECKING:
    from diffusers import FlowMatchEulerDiscreteScheduler

SCHEDULER_FILE = "scheduler/scheduler_config.json"
_SAME = 1e-4
"""Tolerance below which two grids count as equal, since schedulers compute in float32."""


def sigma_grid(model: ModelConfig) -> SigmaGrid:
    """Build the function that computes the sampling grids of a model.

    Args:
        model: Section `model`, with the size of the images; its scheduler is read only for the shift `scheduler`.

    Returns:
        Function of the number of steps and the shift; it raises as `scheduler_sigmas`.
    """

    def grid(num_steps: int, shift: Shift) -> Tensor:
        if shift == "scheduler":
            return scheduler_sigmas(model.path, model.size.num_tokens, num_steps)
        return shifted_sigmas(num_steps, shift_at(shift, model.size.num_tokens))

    return grid


def scheduler_sigmas(path: str, num_tokens: int, num_steps: int) -> Tensor:
    """Compute the grid that a pipeline's own scheduler samples with in diffusers.

    Args:
        path: Folder or hub id of the pipeline, or `small_world`.
        num_tokens: Number of image tokens.
        num_steps: Euler steps, at least 1.

    Returns:
        Sigmas `[num_steps + 1]`, float64 with the scheduler's float32 precision, decreasing from 1 to 0.

    Raises:
        ValueError: If the scheduler cannot be read, does not take Euler steps from noise to data, or the model's
            authors fix another number of steps.
    """
    even = torch.linspace(1, 1 / num_steps, num_steps, dtype=torch.float64).tolist()
    fixed = sample_sigmas(path)
    if fixed and len(fixed) != num_steps:
        raise ValueError(
            f"rollout.shift: expected {len(fixed)} steps with the scheduler of {path!r}, whose model_index.json fixes"
            f" their sigmas, got {num_steps}; set each number of steps on this grid (rollout.num_steps,"
            f" evaluation.num_steps, algorithm.inversion.steps, algorithm.window_grid_steps) to {len(fixed)}, or give"
            " a number or resolution"
        )
    scheduler = _load_scheduler(path)
    family, mu = family_of(path), None
    if scheduler.config["use_dynamic_shifting"]:
        if family.distilled_mu is not None and is_distilled(path):
            mu = family.distilled_mu
        else:
            mu = _empirical_mu(num_tokens, num_steps) if family.empirical_shift else _mu(scheduler, num_tokens)
    scheduler.set_timesteps(num_steps, sigmas=fixed or (even if family.even_sigmas else None), mu=mu)
    sigmas = torch.as_tensor(scheduler.sigmas).double()
    if abs(sigmas[0].item() - 1) > 1e-3 or sigmas[-1].item() != 0 or not bool((sigmas.diff() < 0).all()):
        raise ValueError(
            f"rollout.shift: expected a scheduler whose {num_steps} steps fall from sigma 1 to 0, got that of {path!r},"
            f" with {[round(sigma, 4) for sigma in sigmas.tolist()]}; give a number or resolution"
        )
    return sigmas


def scheduler_note(model: ModelConfig, num_steps: int, shift: Shift) -> str | None:
    """Build a note for the user if a run's grid differs from that of the model's own scheduler; else None.

    Args:
        model: Section `model`.
        num_steps: Euler steps of a rollout.
        shift: `rollout.shift`.

    Raises:
        ValueError: As `scheduler_sigmas`, with the shift `scheduler`.
    """
    grid = sigma_grid(model)
    found = grid(num_steps, shift)
    if shift == "scheduler":
        return None
    try:
        own = grid(num_steps, "scheduler")
    except ValueError as error:
        return f"rollout.shift: {shift} could not be compared with the model's own scheduler ({error})"
    difference = (found - own).abs().max().item()
    if difference < _SAME:
        return None
    return (
        f"rollout.shift: {shift} gives sigmas that differ by up to {difference:.3f} in {num_steps} steps from those of"
        f" the model's own scheduler ({_described(model.path)}); `rollout.shift=scheduler` samples as its pipeline does"
    )


def _described(path: str) -> str:
    if fixed := sample_sigmas(path):
        return f"{len(fixed)} fixed sigmas"
    config = _load_scheduler(path).config
    if not config["use_dynamic_shifting"]:
        return f"shift {config['shift']:g}"
    if family_of(path).empirical_shift:
        return "a shift by resolution and number of steps"
    return f"a shift by resolution, mu {config['base_shift']:g} to {config['max_shift']:g}"


def _mu(scheduler: "FlowMatchEulerDiscreteScheduler", num_tokens: int) -> float:
    """Exponent of a shift that follows the number of image tokens, linear between the scheduler's two points."""
    config = scheduler.config
    low, high = config["base_image_seq_len"], config["max_image_seq_len"]
    slope = (config["max_shift"] - config["base_shift"]) / (high - low)
    return config["base_shift"] + slope * (num_tokens - low)


def _empirical_mu(num_tokens: int, num_steps: int) -> float:
    """Exponent of FLUX.2's shift, which follows the number of image tokens and of steps."""
    from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

    return compute_empirical_mu(num_tokens, num_steps)


def _load_scheduler(path: str) -> "FlowMatchEulerDiscreteScheduler":
    # The import takes seconds, and a run with a numeric shift does not need it.
    from diffusers import FlowMatchEulerDiscreteScheduler

    file = pipeline_file(resolve_path(path), SCHEDULER_FILE)
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        name = settings.get("_class_name")
        if name != FlowMatchEulerDiscreteScheduler.__name__:
            raise ValueError(
                f"rollout.shift: expected a model with a {FlowMatchEulerDiscreteScheduler.__name__}, got {path!r} with"
                f" {name!r}; give a number or resolution"
            )
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(settings)
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, TypeError) as error:
        raise ValueError(unreadable(path, SCHEDULER_FILE, error)) from error
    # `from_config` returns a tuple only if unused settings are requested.
    assert isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    return scheduler
