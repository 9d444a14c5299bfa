"""Other model of the contrast in evaluations, read by a worker: its host, its share of the files, its errors."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from srpo_ray.config.absolute_paths import with_absolute_paths
from srpo_ray.launch.preflight import open_run_folder
from srpo_ray.models.lora_start import trained_shapes
from srpo_ray.rewards.base import RewardScorer
from srpo_ray.runs import other_model
from srpo_ray.runs.folder import RunFolder
from srpo_ray.runs.inputs import contrast_hashes
from srpo_ray.runs.other_model import check_other_model, contrast_weights
from srpo_ray.training import setup
from tests.helpers.training.contrasted_runs import LORA, damage, finished_run, run_with


def test_worker_that_reads_another_run_than_the_driver_stops_before_it_loads_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = finished_run(tmp_path / "other", LORA)
    config = with_absolute_paths(run_with(other))
    folder = open_run_folder(config, tmp_path / "mine")
    monkeypatch.setattr(setup, "dist", SimpleNamespace(get_rank=lambda: 1, get_world_size=lambda: 2))
    monkeypatch.setattr(setup, "prepare_features", lambda *_: pytest.fail("the run was built"))
    shutil.rmtree(other)
    finished_run(other, LORA, seed=1)
    with pytest.raises(ValueError, match=r"evaluation\.contrast_with: .*give every host the same copy"):
        setup.build_trainer(config, folder, cast("RewardScorer", None), "cpu", None)


def test_worker_verifies_its_share_of_the_files(tmp_path: Path) -> None:
    other = finished_run(tmp_path / "other", LORA)
    config, shapes = run_with(other), trained_shapes(run_with(other).model)
    damage(other)
    contrast_weights(config, shapes, part=(1, 2))
    with pytest.raises(ValueError, match=r"^evaluation.contrast_with: checkpoint .* it is damaged"):
        contrast_weights(config, shapes, part=(0, 2))


def test_host_that_does_not_see_the_other_run_or_its_storage_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_with(tmp_path / "other")
    with pytest.raises(
        ValueError, match=r"^evaluation.contrast_with: expected a finished run or a LoRA on storage that every"
    ):
        contrast_weights(config, {})

    def refused(_: RunFolder) -> int:
        raise PermissionError("access denied")

    monkeypatch.setattr(other_model, "finished_update", refused)
    for read in (check_other_model, lambda config: contrast_weights(config, {})):
        with pytest.raises(ValueError, match=r"^evaluation.contrast_with: .* \(access denied\); correct the path"):
            read(config)


def test_host_that_does_not_see_the_lora_file_names_the_key(tmp_path: Path) -> None:
    config = run_with(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"^evaluation.contrast_with: expected a LoRA file \(\.safetensors\)"):
        contrast_hashes(config)


def test_unreadable_manifest_of_the_other_run_names_the_key(tmp_path: Path) -> None:
    other = finished_run(tmp_path / "other", LORA)
    (manifest,) = other.rglob("manifest.json")
    manifest.write_text("no JSON")
    with pytest.raises(ValueError, match=r"^evaluation.contrast_with: checkpoint .*expected weights, optimizer and"):
        contrast_hashes(run_with(other))
