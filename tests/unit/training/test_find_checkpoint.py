"""Choice of the checkpoint that a run resumes from, and the record of damaged checkpoints."""

import shutil
from pathlib import Path

import pytest
import torch

from srpo_ray.config import RunConfig, load_run
from srpo_ray.config.continuation import run_identity
from srpo_ray.runs.checkpoint import save_checkpoint
from srpo_ray.runs.folder import CHECKPOINT_SAVED, RunFolder, append_row
from srpo_ray.runs.storage import Storage
from srpo_ray.runs.warnings import warnings
from srpo_ray.training.loop import find_checkpoint
from tests.conftest import SMALL_WORLD


@pytest.fixture
def config() -> RunConfig:
    return load_run([SMALL_WORLD])


@pytest.fixture
def folder(tmp_path: Path, config: RunConfig) -> RunFolder:
    """Folder of a run with two checkpoints."""
    folder = RunFolder(tmp_path / "run")
    folder.make()
    for step in (10, 20):
        weights = {"a": torch.full((4,), float(step))}
        save_checkpoint(Storage(folder.checkpoints), step, weights, {}, {}, run_identity(config), kept=2)
        append_row(folder.events, {"update": step, "event": CHECKPOINT_SAVED, "message": ""})
    return folder


def cut_short(folder: RunFolder, step: int) -> None:
    file = Path(folder.checkpoints) / f"update_{step:06d}" / "weights-00000.safetensors"
    file.write_bytes(file.read_bytes()[:-4])


def test_damaged_checkpoint_is_skipped_and_reported_at_the_end(config: RunConfig, folder: RunFolder) -> None:
    cut_short(folder, 20)
    found = find_checkpoint(config, folder)
    assert found is not None
    assert found.update == 10
    (said,) = warnings(folder)
    assert "update_000020: weights-00000.safetensors is not what the manifest says" in said


@pytest.mark.parametrize("gone", ["all damaged", "not mounted"])
def test_run_whose_checkpoints_are_all_gone_does_not_start_from_scratch(
    config: RunConfig, folder: RunFolder, gone: str
) -> None:
    if gone == "not mounted":
        shutil.rmtree(folder.checkpoints)
    else:
        cut_short(folder, 10)
        cut_short(folder, 20)
    with pytest.raises(ValueError, match=r"expected a valid checkpoint of run .* the run saved update 20, got none"):
        find_checkpoint(config, folder)


def test_run_that_lost_the_checkpoint_of_the_run_it_continues_does_not_start_from_scratch(
    config: RunConfig, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.make()
    folder.start.write_text('{"run": "other", "update": 20}')
    with pytest.raises(ValueError, match=r"expected a valid checkpoint of run .* the run saved update 20, got none"):
        find_checkpoint(config, folder)


def test_run_without_checkpoints_starts_from_scratch(config: RunConfig, tmp_path: Path) -> None:
    assert find_checkpoint(config, RunFolder(tmp_path)) is None
