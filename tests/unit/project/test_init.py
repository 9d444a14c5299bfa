"""Project folders of `srpo-ray init`: each loads as it is written, and nothing is overwritten."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from srpo_ray import __version__
from srpo_ray.cli import main
from srpo_ray.cli.dispatch import parse
from srpo_ray.cli.init import DEFAULT
from srpo_ray.config import apply, load_experiment, load_run
from srpo_ray.project import templates
from srpo_ray.project.templates import TEMPLATES
from srpo_ray.small_world.prompts import is_held_out, parse_prompt
from tests.conftest import ROOT


@pytest.fixture(params=TEMPLATES)
def template(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def project(template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project folder of a template, as the working folder."""
    monkeypatch.chdir(tmp_path)
    assert main(["init", "my_study", "--template", template]) == 0
    monkeypatch.chdir(tmp_path / "my_study")
    return tmp_path / "my_study"


def test_run_of_a_project_is_that_of_the_packaged_files_with_own_name_and_prompts(template: str, project: Path) -> None:
    chosen = TEMPLATES[template]
    packaged = load_run([ROOT / chosen.config, *(ROOT / file for file, _ in chosen.layers)])
    own = load_run(chosen.config_files)
    assert own == apply(packaged, {"name": "my_study", "data.prompts": "prompts/train.txt"})


def test_sweep_of_a_project_starts_from_its_run(template: str, project: Path) -> None:
    config, base = load_experiment("sweep.yaml")
    assert config.name == "my_study_sweep"
    assert base == load_run(TEMPLATES[template].config_files)


def test_example_prompts_to_train_on_are_not_those_of_the_evaluation(project: Path) -> None:
    train = Path("prompts/train.txt").read_text().splitlines()
    assert len(set(train)) == len(train) >= 24
    if (evaluation := Path("prompts/evaluation.txt")).exists():
        assert not set(train) & set(evaluation.read_text().splitlines())
    else:
        assert not any(is_held_out(parse_prompt(prompt)[1]) for prompt in train)


def test_commands_of_the_readme_are_commands_of_the_program(project: Path) -> None:
    text = (project / "README.md").read_text()
    commands = re.findall(r"^srpo-ray (.*)$", text, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        parsed = parse(shlex.split(command, comments=True))
        for word in getattr(parsed, "config", []):
            assert (project / word).exists() or (ROOT / word).exists()
    assert set(re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)) <= {
        *(path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()),
        "cluster.yaml",
    }


def test_cluster_file_installs_the_package_and_passes_rays_check(project: Path) -> None:
    text = (project / "cluster.yaml").read_text()
    cluster = yaml.safe_load(text)
    validate_config(prepare_config(cluster))
    assert "make setup" not in text
    (install,) = [command for command in cluster["setup_commands"] if "pip install --quiet --python" in command]
    assert install.endswith(f"-c constraints.txt uv srpo_ray=={__version__}")
    # Nothing else differs from the repository's file.
    original = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    differing = {key for key in original if cluster[key] != original[key]}
    assert differing == {"setup_commands"}
    commands = " ".join(str(command) for key in cluster if key.endswith("_commands") for command in cluster[key])
    for name in re.findall(r"cluster/[\w.]+", commands):
        assert (project / name).is_file()


def test_folder_with_files_is_refused_and_left_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["init", str(tmp_path)]) == 2
    assert "expected a new or empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("mine")
    assert main(["init", str(tmp_path / "mine")]) == 2
    assert "got the file" in capsys.readouterr().err
    assert (tmp_path / "mine").read_text() == "mine"


def test_empty_working_folder_can_become_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "study").mkdir()
    monkeypatch.chdir(tmp_path / "study")
    assert main(["init", "."]) == 0
    assert load_run(["config.yaml"]).name == "study"


@pytest.mark.parametrize(("name", "cure"), [("flux_lra", "did you mean flux_lora"), ("qq", "choose one of them")])
def test_unknown_template_is_refused_with_the_list(
    name: str, cure: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(tmp_path / "study"), "--template", name]) == 2
    message = capsys.readouterr().err
    assert all(template in message for template in TEMPLATES)
    assert cure in message
    assert not (tmp_path / "study").exists()


def test_name_that_no_run_can_have_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path / "my study")]) == 2
    assert "expected letters, digits" in capsys.readouterr().err


def test_list_prints_every_template(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["init", "--list"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(TEMPLATES)


def test_default_of_the_command_is_the_first_template() -> None:
    assert templates.DEFAULT == DEFAULT
