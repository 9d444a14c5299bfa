"""Build of the small world's weights from scratch: `python -m srpo_ray.small_world.build`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import torch
from open_clip.model import CLIP

from srpo_ray.small_world.build.flux import save_pipeline, train_flux
from srpo_ray.small_world.build.measure import measure_all
from srpo_ray.small_world.build.rewards import PLANS, save_reward, train_reward
from srpo_ray.small_world.build.vae import train_vae
from srpo_ray.small_world.weights import list_files

_LIBRARIES = ("torch", "diffusers", "transformers", "open_clip_torch")
_LAST = ("measure", "total")


def build(out: Path, work: Path, scale: float) -> None:
    """Train, measure and write all models; an interrupted build resumes where it stopped.

    The pipeline and the rewards train at the same time in two processes, since such small models use a core better
    alone than two cores together.

    Args:
        out: folder for `flux/`, `rewards/` and `manifest.json`; replaced if it exists.
        work: folder of checkpoints; finished stages in it are not repeated.
        scale: share of training steps and images; 1 for the shipped weights.

    Raises:
        ValueError: if the scale is not in (0, 1], or if `work` was started at another scale.
    """
    _claim(work, scale)
    start = time.monotonic()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=_share_cores) as lanes:
        for lane in [lanes.submit(train, work, scale) for train in (_train_pipeline, _train_rewards)]:
            lane.result()
    # Every stage is finished now, so these calls only load its checkpoint.
    staged, curves = work / "weights", {}
    vae, curves["vae"] = train_vae(work, scale)
    pipeline, curves["flux"] = train_flux(vae, work, scale)
    save_pipeline(pipeline, staged / "flux")
    rewards: dict[str, CLIP] = {}
    for name in PLANS:
        rewards[name], curves[name] = train_reward(name, work, scale)
        save_reward(name, rewards[name], staged / "rewards" / name)
    with _timed(work, "measure"):
        metrics = measure_all(pipeline, rewards, count=max(8, round(500 * scale)))
    _record(work, "total", time.monotonic() - start)
    manifest = {
        "command": f"python -m srpo_ray.small_world.build --scale {scale:g}",
        "libraries": {name: version(name) for name in _LIBRARIES},
        "seconds": _seconds(work),
        "metrics": metrics,
        "files": list_files(staged),
        "curves": curves,
    }
    (staged / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    _publish(staged, out)


def _share_cores() -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))


def _train_pipeline(work: Path, scale: float) -> None:
    with _timed(work, "vae"):
        vae, _ = train_vae(work, scale)
    with _timed(work, "flux"):
        train_flux(vae, work, scale)


def _train_rewards(work: Path, scale: float) -> None:
    for name in PLANS:
        with _timed(work, name):
            train_reward(name, work, scale)


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


@contextmanager
def _timed(work: Path, stage: str) -> Iterator[None]:
    """Record the stage's duration, summed over interrupted builds."""
    start = time.monotonic()
    try:
        yield
    finally:
        _record(work, stage, time.monotonic() - start)


def _record(work: Path, stage: str, seconds: float) -> None:
    # A file per stage, because two processes record at the same time.
    path = work / f"{stage}.seconds"
    before = float(path.read_text()) if path.is_file() else 0.0
    path.write_text(f"{before + seconds:.1f}")


def _seconds(work: Path) -> dict[str, float]:
    return {stage: float((work / f"{stage}.seconds").read_text()) for stage in ("vae", "flux", *PLANS, *_LAST)}


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
