"""Finished runs, and runs whose evaluations contrast with them, made without training."""

from pathlib import Path

from srpo_ray.config import RunConfig, load_run
from tests.conftest import SMALL_WORLD
from tests.helpers.training.trained_run import trained_run

LORA = "model.lora={rank: 4}"


def finished_run(path: Path, *overrides: str, seed: int = 0) -> Path:
    trained_run(path, f"run_root={path.parent}", *overrides, seed=seed)
    (path / "finished.json").write_text("{}")
    return path


def run_with(other: Path, *overrides: str) -> RunConfig:
    """A run in `run_root` beside the other one."""
    given = [f"run_root={other.parent}", "name=mine", "evaluation.rl_guidance=2", f"evaluation.contrast_with={other}"]
    return load_run([SMALL_WORLD], [*given, *(overrides or (LORA,))])


def damage(other: Path) -> None:
    (file,) = other.rglob("weights-00000.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
