"""Names of packaged configs: where a file is found, and what the message about a missing one suggests."""

import logging
from pathlib import Path

import pytest
import yaml

from srpo_ray.config import load_experiment, load_run
from srpo_ray.config.load import ConfigError, find_config, read_yaml
from srpo_ray.packaged import packaged_configs
from tests.conftest import ROOT

RECIPE = "configs/recipes/flux_lora_80gb.yaml"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder outside the repository."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_packaged_config_is_read_where_the_working_folder_has_none(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = read_yaml(RECIPE)
    assert found == yaml.safe_load((ROOT / RECIPE).read_text())
    (message,) = caplog.messages
    assert RECIPE in message
    assert str(ROOT / RECIPE) in message


def test_file_of_the_working_folder_has_precedence(elsewhere: Path, caplog: pytest.LogCaptureFixture) -> None:
    (elsewhere / RECIPE).parent.mkdir(parents=True)
    (elsewhere / RECIPE).write_text("name: mine\n")
    assert read_yaml(RECIPE) == {"name": "mine"}
    assert not caplog.messages


def test_packaged_experiment_finds_its_base_beside_itself() -> None:
    config, base = load_experiment("configs/experiments/small_world_sweep.yaml")
    assert config.base == "../small_world.yaml"
    assert base == load_run([ROOT / "configs" / "small_world.yaml"])


def test_own_experiment_may_name_a_packaged_base(elsewhere: Path) -> None:
    arm = {"name": "SRPO", "space": {"training.optimizer.lr": {"choice": [1.0e-6]}}}
    (elsewhere / "studies").mkdir()
    (elsewhere / "studies" / "own.yaml").write_text(yaml.safe_dump({"base": "configs/small_world.yaml", "arms": [arm]}))
    _, base = load_experiment("studies/own.yaml")
    assert base == load_run([ROOT / "configs" / "small_world.yaml"])


@pytest.mark.parametrize("name", ["configs/../pyproject.toml", "pyproject.toml", "cluster/gcp.yaml", "configs"])
def test_only_files_in_configs_are_packaged_configs(name: str) -> None:
    assert find_config(name) == Path(name)


@pytest.mark.parametrize(
    ("missing", "near"),
    [
        ("configs/recipes/flux_lora_80.yaml", "configs/recipes/flux_lora_80gb.yaml"),
        ("flux_lora_24gb.yaml", "configs/recipes/flux_lora_24gb.yaml"),
        ("confg.yaml", "did you mean config.yaml?"),
    ],
)
def test_message_about_a_missing_file_lists_near_names(missing: str, near: str, elsewhere: Path) -> None:
    (elsewhere / "config.yaml").write_text("name: mine\n")
    with pytest.raises(ConfigError, match="did you mean") as raised:
        load_run([missing])
    assert near in str(raised.value)


def test_message_about_a_missing_file_without_near_names_asks_to_check_the_path() -> None:
    with pytest.raises(ConfigError, match="check the path"):
        load_run(["qqqq.yaml"])


def test_packaged_configs_are_the_yaml_files_of_the_repository() -> None:
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").glob("**/*.yaml")}
    assert set(packaged_configs()) == files
