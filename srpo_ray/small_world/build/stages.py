"""Stages of the build that train at the same time in two processes, and their durations."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import torch

from srpo_ray.small_world.build.flux import train_flux
from srpo_ray.small_world.build.rewards import PLANS, train_reward
from srpo_ray.small_world.build.vae import train_vae

_STAGES = ("vae", "flux", *PLANS, "measure", "total")


def train_all(work: Path, scale: float) -> None:
    """Train the pipeline and the rewards to their finished checkpoints, each in a process of its own.

    Such small models use a core better alone than two cores together.

    Args:
        work: folder of checkpoints; finished stages in it are not repeated.
        scale: share of training steps and images.
    """
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=_prepare) as lanes:
        for lane in [lanes.submit(train, work, scale) for train in (_train_pipeline, _train_rewards)]:
            lane.result()


def _prepare() -> None:
    # Ctrl-C reaches all processes; the parent reports it, and checkpoints are written atomically.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))


def _train_pipeline(work: Path, scale: float) -> None:
    with timed(work, "vae"):
        vae, _ = train_vae(work, scale)
    with timed(work, "flux"):
        train_flux(vae, work, scale)


def _train_rewards(work: Path, scale: float) -> None:
    for name in PLANS:
        with timed(work, name):
            train_reward(name, work, scale)


@contextmanager
def timed(work: Path, stage: str) -> Iterator[None]:
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


def read_seconds(work: Path) -> dict[str, float]:
    """Return the duration of every stage, and of the whole build, in seconds."""
    return {stage: float((work / f"{stage}.seconds").read_text()) for stage in _STAGES}
