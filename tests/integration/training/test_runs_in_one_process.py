"""Runs that are trained one after another in one process: nothing of one reaches the next."""

import gc
import io
import shutil
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from diffusers import FluxTransformer2DModel

from srpo_ray.config import RunConfig, apply
from srpo_ray.launch.fit_here import fit_here
from srpo_ray.launch.preflight import open_run_folder
from srpo_ray.runs.checkpoint_files import complete_checkpoints
from srpo_ray.runs.folder import RunFolder, read_rows
from srpo_ray.runs.storage import Storage
from srpo_ray.runs.trained_weights import read_trained_weights
from srpo_ray.training.trainer import Trainer
from tests.helpers.training.ranks import run_ranks

IN_PROCESS = {"rewards.in_process": True, "evaluation.samples_per_prompt": 2}
OTHER = {
    "name": "other",
    "seed": 3,
    "model.lora.rank": 4,
    "algorithm.control_words": "vivid",
    "training.profile_updates": 1,
}


class Rows:
    """Process that receives rows, and that stops the run at an update as Ray Tune does."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.updates: list[int] = []

    def report(self, row: dict[str, Any]) -> None:
        self.updates.append(row["update"])
        if row["update"] == self.stop_at:
            raise SystemExit(0)

    def leaving_nodes(self) -> frozenset[str]:
        return frozenset()


def train(config: RunConfig, host: Rows) -> RunFolder:
    folder = open_run_folder(config, Path(config.run_root) / config.name)
    fit_here(config, folder, None, host, name=config.name, commit=None)
    return folder


def numbers(folder: RunFolder) -> dict[str, Any]:
    """All that a run computed, without times and memory."""
    rows = [*read_rows(folder.updates), *read_rows(folder.evaluations), *read_rows(folder.scores)]
    kept = [{key: row[key] for key in row if not key.startswith(("time/", "memory/", "speed/"))} for row in rows]
    return {"rows": repr(kept), "weights": dict(read_trained_weights(Storage(folder.checkpoints), 4))}


def transformers() -> int:
    """Number of transformers of all runs that this process still keeps."""
    gc.collect()
    return sum(isinstance(each, FluxTransformer2DModel) for each in gc.get_objects())


def train_around_another(config: RunConfig) -> dict[str, Any]:
    """Train a run before and after another one, which is stopped on its way."""
    found = dict[str, Any]()
    first, last, stopped = Rows(), Rows(), Rows(stop_at=2)
    with redirect_stderr(io.StringIO()) as printed:
        folder = train(apply(config, {**IN_PROCESS, "name": "first"}), first)
    found |= {"first": numbers(folder), "printed": printed.getvalue()}
    with pytest.raises(SystemExit):
        train(apply(config, {**IN_PROCESS, **OTHER}), stopped)
    # Without the caches the last run computes its text features and the baseline again.
    shutil.rmtree(Path(config.run_root) / "cache")
    found["last"] = numbers(train(apply(config, {**IN_PROCESS, "name": "last"}), last))
    found["transformers"] = transformers()
    assert (first.updates, stopped.updates, last.updates) == ([0, 2, 4], [0, 2], [0, 2, 4])
    other = RunFolder(Path(config.run_root) / "other")
    assert not other.finished.exists()
    assert [trace.name for trace in other.profile.iterdir()] == ["update_000002.json.gz"]
    (second,) = [row for row in read_rows(other.updates) if row["update"] == 2]
    assert second["speed/images_per_second"] == pytest.approx(4 / second["time/update"])
    assert second["speed/tflops"] > 0
    return found


def train_stopped(config: RunConfig) -> dict[str, Any]:
    """Train a run straight, and one that is stopped within the evaluation after its first update, then after it."""
    apart = apply(config, {**IN_PROCESS, "evaluation.cache": False})
    straight = numbers(train(apply(apart, {"name": "straight"}), Rows()))
    stopped, folder = apply(apart, {"name": "stopped"}), RunFolder(Path(config.run_root) / "stopped")
    with pytest.raises(SystemExit), patch.object(Trainer, "evaluate", side_effect=SystemExit(0)):
        train(stopped, Rows())
    assert [row["update"] for row in read_rows(folder.updates)] == [1]
    assert not folder.evaluations.exists()
    with pytest.raises(SystemExit):
        train(stopped, Rows(stop_at=0))
    assert [row["update"] for row in read_rows(folder.updates)] == [1]
    assert [row["update"] for row in read_rows(folder.evaluations)] == [0]
    assert not complete_checkpoints(Storage(folder.checkpoints))
    last = Rows()
    found = numbers(train(stopped, last))
    assert last.updates == [0, 2, 4]
    return {"straight": straight, "stopped": found}


def test_run_that_is_stopped_around_its_first_evaluation_ends_as_if_it_was_not(
    tiny_run: RunConfig, tmp_path: Path
) -> None:
    found = run_ranks(train_stopped, 1, tmp_path, tiny_run)
    assert found["stopped"]["rows"] == found["straight"]["rows"]
    weights = found["straight"]["weights"]
    assert all(torch.equal(found["stopped"]["weights"][name], value) for name, value in weights.items())


def test_run_has_the_same_bits_after_another_run_in_its_process(tiny_run: RunConfig, tmp_path: Path) -> None:
    found = run_ranks(train_around_another, 1, tmp_path, tiny_run)
    first, last = found["first"], found["last"]
    # Notices of libraries would stand in the display of the command.
    assert found["printed"] == ""
    assert found["transformers"] == 0
    assert first["rows"] == last["rows"]
    assert first["weights"].keys() == last["weights"].keys()
    assert all(torch.equal(first["weights"][name], value) for name, value in last["weights"].items())
