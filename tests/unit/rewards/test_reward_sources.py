"""Rewards whose model or class does not exist: refused before Ray starts, without a folder."""

import sys
from pathlib import Path

import pytest

from srpo_ray.cli import main
from srpo_ray.config import load_run
from srpo_ray.launch.reward_checks import check_sources
from srpo_ray.rewards.models.open_clip import CONFIG_FILE
from tests.conftest import SMALL_WORLD

HELD_OUT = "evaluation.held_out=[{{name: mine, {}}}]"
STAND_IN = "tests.helpers.rewards.stand_in_rewards"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("type: open_clip, path: /no/such/folder", "expected an open_clip model"),
        ("type: open_clip, path: 'small_world:no_such'", "expected one of .* got 'no_such'"),
        (
            "type: open_clip, path: no_such.pt, architecture: ViT-H-14",
            "expected a checkpoint file at .*no_such.pt, received no file",
        ),
        (
            "type: hpsv3, path: no/such.safetensors",
            "expected a checkpoint file at .*, received no file",
        ),
        ("type: image_reward, path: /no/such.pt", "expected a checkpoint file at /no/such.pt, received no file"),
        ("type: transformers_clip, path: /no/folder", "expected a folder or hub id, received '/no/folder', which does"),
        ("type: python, target: 'no_such_module:Mine'", "importable package.module:Class, received 'no_such_module"),
        (f"type: python, target: '{STAND_IN}:NoSuchClass'", "importable package.module:Class, received"),
    ],
)
@pytest.mark.parametrize("section", ["rewards.models", "evaluation.held_out"])
def test_reward_that_does_not_exist_is_refused_before_ray_starts(
    section: str, model: str, message: str, tmp_path: Path
) -> None:
    config = load_run([SMALL_WORLD], [f"{section}=[{{name: mine, {model}}}]", f"run_root={tmp_path / 'runs'}"])
    with pytest.raises(ValueError, match=rf"{section}: (reward 'mine'|reward_dir).*{message}"):
        check_sources(config, None)


def test_command_ends_with_code_2_and_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "train",
        str(SMALL_WORLD),
        f"run_root={tmp_path / 'runs'}",
        HELD_OUT.format("type: open_clip, path: /no/such/folder"),
    ]
    assert main(words) == 2
    assert "evaluation.held_out: reward 'mine': expected an open_clip model" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_rewards_of_a_cluster_may_be_on_its_reward_nodes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_run([SMALL_WORLD], [HELD_OUT.format("type: open_clip, path: /no/such/folder")])
    check_sources(config, "10.0.0.1:6379")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check_sources(config, None)


@pytest.mark.parametrize(
    "model",
    [
        "type: open_clip, path: 'hf-hub:no/such'",
        "type: open_clip, path: 'hf-hub:no/such/file.pt', architecture: ViT-H-14",
        "type: transformers_clip, path: no/such",
    ],
)
def test_hub_is_not_asked(model: str) -> None:
    check_sources(load_run([SMALL_WORLD], [HELD_OUT.format(model)]), None)


def test_local_folder_and_class_of_the_working_folder_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(CONFIG_FILE).write_text("{}")
    Path("reward_beside_the_configs.py").write_text("class Mine: pass\n")
    before = list(sys.path)
    for model in (f"type: open_clip, path: {tmp_path}", "type: python, target: 'reward_beside_the_configs:Mine'"):
        check_sources(load_run([SMALL_WORLD], [HELD_OUT.format(model)]), None)
    assert sys.path == before
