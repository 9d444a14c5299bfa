"""The folder of an experiment knows whether it is resumed as the experiment that it was begun as."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from srpo_ray.cli import main
from srpo_ray.cli.dispatch import parse
from srpo_ray.config import ConfigError, ExperimentConfig, RunConfig, load_experiment, load_run
from srpo_ray.config.data import DataConfig
from srpo_ray.evaluation.results import Arm, TrialRow
from srpo_ray.runs.folder import save_images
from srpo_ray.search import experiment as experiment_module
from srpo_ray.search.folder import first_command, load_experiment_folder, open_experiment_folder, resume_command
from srpo_ray.search.publish import _images
from srpo_ray.search.trial import Experiment, trial_folder
from tests.conftest import ROOT

SWEEP, TABLE = (ROOT / "configs" / "experiments" / f"{name}.yaml" for name in ("small_world_sweep", "paper_table"))


def test_same_configs_go_on_and_others_are_refused(tmp_path: Path) -> None:
    config, base = load_experiment(SWEEP, [f"run_root={tmp_path}"])
    folder = open_experiment_folder(config, base)
    assert load_experiment_folder(folder) == (config, base)
    assert open_experiment_folder(config, base) == folder
    with pytest.raises(ValueError, match=r"base.yaml differs.*--resume"):
        open_experiment_folder(config, base.model_copy(update={"seed": 9}))
    with pytest.raises(ValueError, match=r"experiment.yaml differs.*experiment.name="):
        open_experiment_folder(config.model_copy(update={"seeds": (8, 9)}), base)


def test_folder_of_a_version_that_lacked_an_option_goes_on(tmp_path: Path) -> None:
    config, base = load_experiment(TABLE, [f"run_root={tmp_path}"])
    folder = open_experiment_folder(config, base)
    for name, key in (("experiment.yaml", "target_share"), ("base.yaml", "seed")):
        values = yaml.safe_load((folder / name).read_text())
        del values[key]
        (folder / name).write_text(yaml.safe_dump(values))
    assert open_experiment_folder(config, base) == folder
    assert load_run([folder / "base.yaml"]) == base


def test_experiment_whose_prompts_changed_is_refused_with_the_name_of_the_file(tmp_path: Path) -> None:
    prompts, compared, searched = (tmp_path / f"{name}.txt" for name in ("prompts", "compared", "searched"))
    for file in (prompts, compared, searched):
        file.write_text("a red circle\n")
    config, base = load_experiment(SWEEP, [f"run_root={tmp_path}", f"data.prompts={prompts}"])
    variants = [base.model_copy(update={"data": DataConfig(prompts=str(file))}) for file in (compared, searched)]
    open_experiment_folder(config, base, variants)
    assert open_experiment_folder(config, base, variants)
    for file in (prompts, compared, searched):
        file.write_text("a blue circle\n")
        with pytest.raises(ValueError, match=rf"data\.prompts: \S*{file.name} .*choose another name with `exp"):
            open_experiment_folder(config, base, variants)
        file.write_text("a red circle\n")


def test_trials_without_a_record_of_their_inputs_are_refused(tmp_path: Path) -> None:
    config, base = load_experiment(TABLE, [f"run_root={tmp_path}"])
    folder = open_experiment_folder(config, base)
    (folder / "inputs.json").unlink()
    assert open_experiment_folder(config, base) == folder
    (folder / "trials" / "one").mkdir(parents=True)
    (folder / "trials" / "one" / "evaluations.jsonl").touch()
    (folder / "inputs.json").unlink()
    with pytest.raises(ValueError, match=r"expected inputs\.json in .*choose another name with `experiment.name"):
        open_experiment_folder(config, base)


def test_images_of_a_comparison_get_no_captions_of_prompts_that_changed_meanwhile(tmp_path: Path) -> None:
    prompts = tmp_path / "test.txt"
    prompts.write_text("a red circle\na green ring\n")
    config, base = load_experiment(TABLE, [f"run_root={tmp_path}", f"evaluation.prompts={prompts}"])
    experiment = Experiment(base, str(open_experiment_folder(config, base)), {}, "", "", None)
    folder = trial_folder(experiment, "srpo_seed_1")
    for file in (folder.base_images, folder.tuned_images):
        save_images(file, {0: torch.rand(3, 64, 64), 1: torch.rand(3, 64, 64)})
    row = TrialRow("srpo_seed_1", "repeat", "", {}, [], "finished", 1.0, 1)
    arms = [Arm("no seeds", "method", {}, []), Arm("srpo", "method", {}, [row])]
    grid = _images(experiment, arms)
    assert grid is not None
    before = grid.read_bytes()
    prompts.write_text("a red circle\na blue ring\n")
    with pytest.raises(ValueError, match=r"evaluation\.prompts: \S*test\.txt"):
        _images(experiment, arms)
    assert grid.read_bytes() == before


def test_folder_of_a_run_is_no_experiment(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").touch()
    with pytest.raises(ConfigError, match=r"expected the folder of an experiment, with experiment.yaml"):
        load_experiment_folder(tmp_path)


def test_command_of_a_resumed_experiment_is_the_first_one(tmp_path: Path) -> None:
    assert first_command(tmp_path, "python experiments/sweep.py seed=3") == "python experiments/sweep.py seed=3"
    assert first_command(tmp_path, "python experiments/sweep.py") == "python experiments/sweep.py seed=3"


def test_printed_command_resumes_the_experiment_on_its_cluster_and_in_a_folder_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []

    def run_experiment(config: ExperimentConfig, base: RunConfig, _address: str, _command: str, resume: str, *_: Any):
        found.append(resume_command(resume, Path(base.run_root) / config.name))
        return tmp_path / "report.html"

    monkeypatch.setattr(experiment_module, "run_experiment", run_experiment)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my runs; old"
    assert main(["sweep", str(SWEEP), f"run_root={folder}", "--address", "10.0.0.1:6379"]) == 0
    program, *arguments = shlex.split(found[0])
    parsed = parse(arguments)
    assert (program, parsed.command, parsed.address) == ("srpo-ray", "sweep", "10.0.0.1:6379")
    assert parsed.resume == str(folder / "small_world_sweep")
    assert main(["sweep", str(SWEEP), f"run_root={folder}"]) == 0
    assert "--address" not in found[1]
