"""Every command of the guides, as it is written there, on the small world."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from srpo_ray.cli import main
from tests.conftest import ROOT, TINY

pytestmark = pytest.mark.usefixtures("ray_cluster")
GUIDES = ROOT / "docs" / "guides"
SMALL_WORLD = [
    *TINY,
    # The guide measures the spread within a prompt.
    "evaluation.samples_per_prompt=2",
    "model.path=small_world",
    "model.dtype=float32",
    "model.resolution=64",
    "model.max_sequence_length=16",
    "training.num_updates=2",
    "training.micro_batch_size=null",
    "training.num_workers=1",
    "training.num_gpus=0",
    "training.num_cpus=1",
    "training.resources={}",
    "rewards.in_process=true",
    "evaluation.batch_size=8",
]
"""What makes any run fit a test."""
REWARDS = [
    "rewards.models=[{name: preference, type: open_clip, path: 'small_world:preference'}]",
    "evaluation.held_out=[{name: held_out, type: open_clip, path: 'small_world:held_out'}]",
]
"""In place of those that would have to be downloaded."""


@pytest.fixture
def workplace(tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the guides ask for: configs, prompts, images, and the example's own files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_mlflow, tmp_path / "runs")
    prompts = [f"a {color} circle on a gray background" for color in ("red", "green", "blue", "yellow")]
    for name in ("train.txt", "evaluation.txt"):
        (tmp_path / name).write_text("\n".join(prompts) + "\n")
    (tmp_path / "images").mkdir()
    for index, prompt in enumerate(prompts):
        pixels = np.random.default_rng(index).integers(0, 256, (64, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
        (tmp_path / "images" / f"{index}.txt").write_text(prompt)
    own = (GUIDES / "own_reward.md").read_text()
    (tmp_path / "my_reward.yaml").write_text("".join(blocks(own, "yaml")))
    return tmp_path


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def shrunk(words: list[str]) -> list[str]:
    """The words of a command, with the overrides that make it small."""
    if words[0] in ("train", "encode") and "--dry-run" not in words:
        # Processes of the shared Ray session were started before the workplace could be on their path.
        own = ["rewards.models.0.target=tests.helpers.docs.my_reward:Warmth"] if "my_reward.yaml" in words else REWARDS
        return [*words, *SMALL_WORLD, *own]
    if words[0] == "words":
        # Overrides belong to the config that stands before the options.
        return [*words[:2], "evaluation.num_steps=2", *words[2:]]
    return words


@pytest.mark.parametrize("guide", sorted(path.stem for path in GUIDES.glob("*.md")))
def test_commands_of_a_guide_work_in_their_order(guide: str, workplace: Path) -> None:
    commands = "".join(blocks((GUIDES / f"{guide}.md").read_text(), "console")).splitlines()
    assert commands
    for command in commands:
        program, *words = shlex.split(command)
        if program == "python":
            subprocess.run([sys.executable, *words], check=True)
        else:
            assert program == "srpo-ray"
            assert main(shrunk(words)) == 0, command
