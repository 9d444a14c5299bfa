"""Build of the small world's weights from scratch: `python -m srpo_ray.small_world.build`."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from open_clip.model import CLIP

from srpo_ray.small_world.build.fit import Curve
from srpo_ray.small_world.build.flux import save_pipeline, train_flux
from srpo_ray.small_world.build.measure import measure_all
from srpo_ray.small_world.build.rewards import PLANS, save_reward, train_reward
from srpo_ray.small_world.build.stages import read_seconds, timed, train_all
from srpo_ray.small_world.build.vae import train_vae
from srpo_ray.small_world.weights import list_files

_LIBRARIES = ("torch", "diffusers", "transformers", "open_clip_torch")


def build(out: Path, work: Path, scale: float) -> None:
    """Train, measure and write all models; an interrupted build resumes where it stopped.

    Args:
        out: folder for `flux/`, `rewards/` and `manifest.json`; replaced if it exists.
        work: folder of checkpoints; finished stages in it are not repeated.
        scale: share of training steps and images; 1 for the shipped weights.

    Raises:
        ValueError: if the scale is not in (0, 1], or if `work` was started at another scale.
    """
    _claim(work, scale)
    staged = work / "weights"
    with timed(work, "total"):
        train_all(work, scale)
        metrics, curves = _save_and_measure(staged, work, scale)
    manifest = {
        "command": f"python -m srpo_ray.small_world.build --scale {scale:g}",
        "libraries": {name: version(name) for name in _LIBRARIES},
        "seconds": read_seconds(work),
        "metrics": metrics,
        "files": list_files(staged),
        "curves": curves,
    }
    (staged / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    _publish(staged, out)


def _save_and_measure(staged: Path, work: Path, scale: float) -> tuple[dict[str, Any], dict[str, Curve]]:
    """Load the finished checkpoints, save the models and measure them; return the metrics and the training curves."""
    curves: dict[str, Curve] = {}
    vae, curves["vae"] = train_vae(work, scale)
    pipeline, curves["flux"] = train_flux(vae, work, scale)
    save_pipeline(pipeline, staged / "flux")
    rewards: dict[str, CLIP] = {}
    for name in PLANS:
        rewards[name], curves[name] = train_reward(name, work, scale)
        save_reward(name, rewards[name], staged / "rewards" / name)
    with timed(work, "measure"):
        metrics = measure_all(pipeline, rewards, count=max(8, round(500 * scale)))
    return metrics, curves


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/small_world/weights"), help="folder to write")
    parser.add_argument("--work", type=Path, help="folder of checkpoints (default: beside --out)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the full training, e.g. 0.01 for a smoke build"
    )
    options = parser.parse_args(arguments)
    work = options.work or options.out.parent / f"work-{options.scale:g}"
    try:
        build(options.out, work, options.scale)
    except KeyboardInterrupt:
        sys.exit(f"interrupted; run the same command again to resume from the checkpoints in {work}")
    print(f"built {options.out}; copy it over srpo_ray/small_world/weights to ship it")


def _claim(work: Path, scale: float) -> None:
    if not 0 < scale <= 1:
        raise ValueError(f"expected a scale in (0, 1], got {scale}; use 1 for the full build")
    record = work / "scale.json"
    work.mkdir(parents=True, exist_ok=True)
    if record.is_file() and json.loads(record.read_text()) != scale:
        raise ValueError(
            f"expected a work folder started at scale {scale:g}, got {work}; delete it or choose another --work"
        )
    record.write_text(json.dumps(scale))


def _publish(staged: Path, out: Path) -> None:
    """Replace `out` by a copy of `staged` atomically."""
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = (out.with_name(out.name + suffix) for suffix in (".new", ".old"))
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(staged, fresh)
    if out.exists():
        out.rename(old)
    fresh.rename(out)
    shutil.rmtree(old, ignore_errors=True)


if __name__ == "__main__":
    main()
