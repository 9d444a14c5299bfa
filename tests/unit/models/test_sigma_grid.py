"""Sigma grids of models against the pipelines of diffusers, as they prepare their schedulers, and by closed forms."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from srpo_ray.algorithms import build_algorithm
from srpo_ray.config import RunConfig, apply
from srpo_ray.config.model import ModelConfig
from srpo_ray.launch.preflight import check_grids, input_notes
from srpo_ray.models.sigma_grid import scheduler_note, sigma_grid

DEV: dict[str, Any] = {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
DEV |= {"base_image_seq_len": 256, "max_image_seq_len": 4096}
SCHNELL: dict[str, Any] = {**DEV, "shift": 1.0, "use_dynamic_shifting": False}
KREA: dict[str, Any] = {**DEV, "shift_terminal": 0.02, "time_shift_type": "linear"}
SD35: dict[str, Any] = {"num_train_timesteps": 1000, "shift": 3.0}
FLUX, SD3 = "FluxPipeline", "StableDiffusion3Pipeline"


def save(folder: Path, pipeline: str, scheduler: dict[str, Any], name: str = "FlowMatchEulerDiscreteScheduler") -> str:
    """The two files of a pipeline that its grid depends on."""
    (folder / "scheduler").mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": name, **scheduler}))
    return str(folder)


def by_diffusers(pipeline: str, settings: dict[str, Any], resolution: int, steps: int) -> torch.Tensor:
    """The sigmas that a pipeline of diffusers would sample with."""
    scheduler = FlowMatchEulerDiscreteScheduler(**settings)
    mu = None
    if settings.get("use_dynamic_shifting"):
        points = [settings[key] for key in ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")]
        mu = calculate_shift((resolution // 16) ** 2, *points)
    if pipeline == FLUX:
        scheduler.set_timesteps(sigmas=[1 - index / steps for index in range(steps)], mu=mu)
    else:
        scheduler.set_timesteps(steps, mu=mu)
    return torch.as_tensor(scheduler.sigmas).double()


@pytest.mark.parametrize("steps", [1, 4, 25, 50])
@pytest.mark.parametrize("resolution", [256, 512, 720, 1024])
@pytest.mark.parametrize(("pipeline", "settings"), [(FLUX, DEV), (FLUX, SCHNELL), (SD3, SD35), (SD3, DEV)])
def test_scheduler_grid_is_the_pipelines(
    pipeline: str, settings: dict[str, Any], resolution: int, steps: int, tmp_path: Path
) -> None:
    model = ModelConfig(path=save(tmp_path / "model", pipeline, settings), resolution=resolution)
    found = sigma_grid(model)(steps, "scheduler")
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, by_diffusers(pipeline, settings, resolution, steps), rtol=0, atol=1e-6)


def test_terminal_shift_and_linear_shifts_are_the_schedulers(tmp_path: Path) -> None:
    model = ModelConfig(path=save(tmp_path / "model", FLUX, KREA), resolution=1024)
    found = sigma_grid(model)(4, "scheduler").tolist()
    # At 4096 tokens mu is 1.15; `linear` takes it as the shift, then the last sigma but 0 is stretched to 0.02.
    shifted = [1.15 / (1.15 + 1 / t - 1) for t in (1, 0.75, 0.5, 0.25)]
    stretched = [1 - (1 - sigma) * (1 - 0.02) / (1 - shifted[-1]) for sigma in shifted]
    assert found == pytest.approx([*stretched, 0.0], abs=1e-6)


def test_schnells_grid_is_even_and_devs_has_the_shift_of_the_resolution(tmp_path: Path) -> None:
    schnell = sigma_grid(ModelConfig(path=save(tmp_path / "schnell", FLUX, SCHNELL), resolution=1024))
    assert schnell(4, "scheduler").tolist() == pytest.approx([1, 0.75, 0.5, 0.25, 0], abs=1e-7)
    dev = sigma_grid(ModelConfig(path=save(tmp_path / "dev", FLUX, DEV), resolution=720))
    torch.testing.assert_close(dev(25, "scheduler"), dev(25, "resolution"), rtol=0, atol=2e-7)
    shift = math.exp(0.5 + 0.65 * (45**2 - 256) / 3840)
    even = torch.linspace(1, 0, 26, dtype=torch.float64)
    torch.testing.assert_close(dev(25, "resolution"), shift * even / (1 + (shift - 1) * even), rtol=1e-12, atol=0)


def test_note_reports_a_grid_that_differs_from_the_schedulers(tmp_path: Path) -> None:
    schnell = ModelConfig(path=save(tmp_path / "schnell", FLUX, SCHNELL), resolution=1024)
    note = scheduler_note(schnell, 4, 3.0)
    # 0.9 - 0.75, 0.75 - 0.5, 0.5 - 0.25
    assert note is not None
    assert note.startswith("rollout.shift: 3.0 gives sigmas that differ by up to 0.250 in 4 steps")
    assert "(shift 1); `rollout.shift=scheduler`" in note
    assert scheduler_note(schnell, 4, 1.0) is None
    assert scheduler_note(schnell, 4, "scheduler") is None
    dev = ModelConfig(path=save(tmp_path / "dev", FLUX, DEV), resolution=720)
    assert scheduler_note(dev, 25, "resolution") is None
    assert "mu 0.5 to 1.15" in (scheduler_note(dev, 25, 3.0) or "")
    assert scheduler_note(ModelConfig(path="small_world"), 12, 3.0) is None


def test_note_is_one_of_a_runs_notes(tiny_run: RunConfig) -> None:
    # The small world's scheduler has shift 3.
    def noted(shift: object) -> bool:
        return any(note.startswith("rollout.shift") for note in input_notes(apply(tiny_run, {"rollout.shift": shift})))

    assert [noted(shift) for shift in (3.0, 1.0, "resolution", "scheduler")] == [False, True, True, False]


def test_other_schedulers_are_refused_when_requested_and_named_when_not(tmp_path: Path) -> None:
    heun = ModelConfig(path=save(tmp_path / "heun", FLUX, {}, "FlowMatchHeunDiscreteScheduler"))
    with pytest.raises(ValueError, match=r"expected a model with a FlowMatchEulerDiscreteScheduler, got .*Heun"):
        sigma_grid(heun)(4, "scheduler")
    assert "FlowMatchHeunDiscreteScheduler" in (scheduler_note(heun, 4, 3.0) or "")
    inverted = ModelConfig(path=save(tmp_path / "inverted", FLUX, {"invert_sigmas": True}))
    with pytest.raises(ValueError, match="expected a scheduler whose 4 steps fall from sigma 1 to 0"):
        sigma_grid(inverted)(4, "scheduler")
    broken = Path(save(tmp_path / "broken", FLUX, {}))
    (broken / "scheduler" / "scheduler_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"scheduler_config\.json cannot be read"):
        sigma_grid(ModelConfig(path=str(broken)))(4, "scheduler")


def test_schedulers_grid_reaches_rollouts_and_window(tiny_run: RunConfig, tmp_path: Path) -> None:
    path = save(tmp_path / "schnell", FLUX, SCHNELL)
    changes = {"model.path": path, "rollout.shift": "scheduler", "algorithm.window_shift": "scheduler"}
    config = apply(tiny_run, {**changes, "rollout.num_steps": 4})
    nothing: Any = None
    algorithm: Any = build_algorithm(config, nothing, nothing)
    assert algorithm.sigmas.tolist() == pytest.approx([1, 0.75, 0.5, 0.25, 0], abs=1e-7)
    # An even grid of 50 steps, cut at 5 and 25.
    assert algorithm.window.sigmas[[0, -1]].tolist() == pytest.approx([0.9, 0.5], abs=1e-6)
    check_grids(config)
    with pytest.raises(ValueError, match="sigma_stride: expected"):
        check_grids(apply(config, {"algorithm.sigma_stride": 0.3}))
