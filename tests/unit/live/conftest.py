"""Folders of an experiment and of a run, as processes that are at work leave them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from srpo_ray.live.state import Progress, RunState, write_progress
from srpo_ray.runs.folder import RunFolder, append_row

OBJECTIVE = "evaluator/held_out"


def evaluate(folder: RunFolder, update: int, value: float) -> None:
    append_row(folder.evaluations, {"update": update, OBJECTIVE: value, "image/contrast": 0.1})


def train(folder: RunFolder, updates: int, seconds: float = 2.0) -> None:
    for update in range(1, updates + 1):
        append_row(folder.updates, {"update": update, "time/update": seconds, "reward/total/denoise": update / 10})


def sign(folder: RunFolder, update: int) -> None:
    row = {"update": update, "kind": "collapse", "metric": "image/diversity", "message": "images look alike"}
    append_row(folder.hacking, row)


def run_state(name: str, status: Any, **values: Any) -> RunState:
    return RunState(name, 8, status, "trial", "SRPO", f"lr {name[-1]}e-6", {"lr": f"{name[-1]}e-6"}, **values)


@pytest.fixture
def experiment(tmp_path: Path) -> tuple[Path, Progress]:
    """An experiment of four runs: one done, one at work, one failed, one waiting."""
    for name, updates, values in (("trial_0", 8, (0.5, 0.75)), ("trial_1", 3, (0.5,)), ("trial_2", 1, ())):
        folder = RunFolder(tmp_path / "trials" / name)
        folder.make()
        train(folder, updates)
        for index, value in enumerate(values):
            evaluate(folder, 4 * index, value)
    runs = [
        run_state("trial_0", "done"),
        run_state("trial_1", "running"),
        run_state("trial_2", "failed", error="out of memory"),
        run_state("trial_3", "waiting"),
    ]
    start = Progress.start("study", "experiment", 6, [OBJECTIVE])
    progress = replace(start, phase="search for SRPO", runs=runs)
    write_progress(tmp_path, progress)
    return tmp_path, progress
