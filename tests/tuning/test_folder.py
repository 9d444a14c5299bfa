"""The folder of a sweep or study knows whether it is resumed as what it was begun as."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from srpo_ray.config import ConfigError, StudyConfig, SweepConfig, load_run, load_study, load_sweep
from srpo_ray.config.data import DataConfig
from srpo_ray.runs.folder import save_images
from srpo_ray.tuning.folder import first_command, load_study_folder, open_study_folder
from srpo_ray.tuning.study import _images
from srpo_ray.tuning.trial import Study, trial_folder
from tests.conftest import ROOT

SWEEP, STUDY = ROOT / "configs/sweep/small_world.yaml", ROOT / "configs/study/paper_table.yaml"


def test_same_configs_go_on_and_others_are_refused(tmp_path: Path) -> None:
    sweep, base = load_sweep(SWEEP, [f"run_root={tmp_path}"])
    folder = open_study_folder(sweep, base)
    assert load_study_folder(folder, SweepConfig) == (sweep, base)
    assert open_study_folder(sweep, base) == folder
    with pytest.raises(ValueError, match=r"base.yaml differs.*--resume"):
        open_study_folder(sweep, base.model_copy(update={"seed": 9}))
    with pytest.raises(ValueError, match=r"sweep.yaml differs.*sweep.name="):
        open_study_folder(sweep.model_copy(update={"num_samples": 99}), base)


def test_folder_of_a_version_that_lacked_an_option_goes_on(tmp_path: Path) -> None:
    study, base = load_study(STUDY, [f"run_root={tmp_path}"])
    folder = open_study_folder(study, base)
    for name, key in (("study.yaml", "target_share"), ("base.yaml", "seed")):
        values = yaml.safe_load((folder / name).read_text())
        del values[key]
        (folder / name).write_text(yaml.safe_dump(values))
    assert open_study_folder(study, base) == folder
    assert load_run([folder / "base.yaml"]) == base


def test_sweep_whose_prompts_changed_is_refused_with_the_name_of_the_file(tmp_path: Path) -> None:
    prompts, compared, searched = (tmp_path / f"{name}.txt" for name in ("prompts", "compared", "searched"))
    for file in (prompts, compared, searched):
        file.write_text("a red circle\n")
    sweep, base = load_sweep(SWEEP, [f"run_root={tmp_path}", f"data.prompts={prompts}"])
    variants = [base.model_copy(update={"data": DataConfig(prompts=str(file))}) for file in (compared, searched)]
    open_study_folder(sweep, base, variants)
    assert open_study_folder(sweep, base, variants)
    for file in (prompts, compared, searched):
        file.write_text("a blue circle\n")
        with pytest.raises(ValueError, match=rf"data\.prompts: \S*{file.name} .*choose another name with `sweep.name"):
            open_study_folder(sweep, base, variants)
        file.write_text("a red circle\n")


def test_trials_without_a_record_of_their_inputs_are_refused(tmp_path: Path) -> None:
    study, base = load_study(STUDY, [f"run_root={tmp_path}"])
    folder = open_study_folder(study, base)
    (folder / "inputs.json").unlink()
    assert open_study_folder(study, base) == folder
    (folder / "trials" / "one").mkdir(parents=True)
    (folder / "trials" / "one" / "evaluations.jsonl").touch()
    (folder / "inputs.json").unlink()
    with pytest.raises(ValueError, match=r"expected inputs\.json in .*choose another name with `study.name"):
        open_study_folder(study, base)


def test_images_of_a_study_get_no_captions_of_prompts_that_changed_meanwhile(tmp_path: Path) -> None:
    prompts = tmp_path / "test.txt"
    prompts.write_text("a red circle\na green ring\n")
    config, base = load_study(STUDY, [f"run_root={tmp_path}", f"evaluation.prompts={prompts}"])
    study = Study(base, str(open_study_folder(config, base)), None, "", "", None)
    folder = trial_folder(study, "srpo_seed_1")
    for file in (folder.base_images, folder.tuned_images):
        save_images(file, {0: torch.rand(3, 64, 64), 1: torch.rand(3, 64, 64)})
    row = SimpleNamespace(name="srpo_seed_1", ended=True)
    report: Any = SimpleNamespace(methods=[SimpleNamespace(name="srpo", rows=[row])])
    grid = _images(study, report)
    assert grid is not None
    before = grid.read_bytes()
    prompts.write_text("a red circle\na blue ring\n")
    with pytest.raises(ValueError, match=r"evaluation\.prompts: \S*test\.txt"):
        _images(study, report)
    assert grid.read_bytes() == before


def test_sweep_is_no_study(tmp_path: Path) -> None:
    folder = open_study_folder(*load_sweep(SWEEP, [f"run_root={tmp_path}"]))
    with pytest.raises(ConfigError, match=r"expected the folder of a study, with study.yaml"):
        load_study_folder(folder, StudyConfig)


def test_command_of_a_resumed_study_is_the_first_one(tmp_path: Path) -> None:
    assert first_command(tmp_path, "python experiments/sweep.py seed=3") == "python experiments/sweep.py seed=3"
    assert first_command(tmp_path, "python experiments/sweep.py") == "python experiments/sweep.py seed=3"
