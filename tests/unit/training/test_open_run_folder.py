"""Owner of a run folder: the run that has started in it."""

from pathlib import Path

import pytest

from srpo_ray.config import RunConfig, apply, load_run
from srpo_ray.launch.preflight import check_inputs, open_run_folder, release_folder_on_early_failure
from tests.conftest import SMALL_WORLD

ANOTHER = "to be new or to contain this same run, got a run with another config"


@pytest.fixture
def config() -> RunConfig:
    return load_run([SMALL_WORLD], ["name=run"])


def test_folder_is_opened_again_by_the_same_config_and_by_no_other(config: RunConfig, tmp_path: Path) -> None:
    open_run_folder(config, tmp_path / "run")
    assert load_run([open_run_folder(config, tmp_path / "run").config]) == config
    with pytest.raises(ValueError, match=ANOTHER):
        open_run_folder(apply(config, {"seed": 7}), tmp_path / "run")


def test_run_that_ended_before_it_began_leaves_its_name_to_another_config(config: RunConfig, tmp_path: Path) -> None:
    first = apply(config, {"training.checkpoint_storage": str(tmp_path / "store")})
    folder = open_run_folder(first, tmp_path / "run")
    with pytest.raises(ValueError, match="too small"), release_folder_on_early_failure(folder):
        raise ValueError("the cluster is too small")
    other = apply(config, {"seed": 7})
    assert open_run_folder(other, tmp_path / "run").checkpoints == str(tmp_path / "run" / "checkpoints")


def test_run_that_has_started_keeps_its_name(config: RunConfig, tmp_path: Path) -> None:
    folder = open_run_folder(config, tmp_path / "run")
    with release_folder_on_early_failure(folder):
        folder.tracker_record.write_text("{}")
    with pytest.raises(ValueError, match=ANOTHER):
        open_run_folder(apply(config, {"seed": 7}), tmp_path / "run")


def test_storage_that_is_refused_leaves_the_name_to_a_config_with_another(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a writable location"):
        open_run_folder(apply(config, {"training.checkpoint_storage": "/proc/nowhere"}), tmp_path / "run")
    open_run_folder(config, tmp_path / "run")


def test_missing_storage_is_refused_when_a_run_resumes(config: RunConfig, tmp_path: Path) -> None:
    config = apply(config, {"training.checkpoint_storage": str(tmp_path / "share")})
    folder = open_run_folder(config, tmp_path / "run")
    (tmp_path / "share").rmdir()
    (tmp_path / "share").write_text("not mounted")
    with pytest.raises(ValueError, match=r"training\.checkpoint_storage: expected a writable location"):
        open_run_folder(config, tmp_path / "run")
    folder.finished.write_text("{}")
    assert open_run_folder(config, tmp_path / "run").finished.exists()


def test_folder_that_no_address_of_a_database_can_name_is_refused_before_anything_starts(tmp_path: Path) -> None:
    config = load_run([SMALL_WORLD], [f"run_root='{tmp_path}/runs?'"])
    with pytest.raises(ValueError, match=r"choose another run_root .* or set tracking\.uri to an MLflow server"):
        check_inputs(config)
