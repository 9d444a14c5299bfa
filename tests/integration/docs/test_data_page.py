"""The example of docs/data.md with conditioning and control words: its file and command, as they are printed."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import torch

from srpo_ray.config import RunConfig, load_run
from srpo_ray.data.texts import read_texts
from srpo_ray.launch.preflight import check_inputs
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.runs.folder import RunFolder
from srpo_ray.training.setup import build_trainer
from tests.conftest import ROOT, TINY
from tests.helpers.training.ranks import run_ranks

FILE = "own_words.jsonl"


def example() -> tuple[str, list[str]]:
    """Content of the page's file, and the words of the command after it."""
    page = (ROOT / "docs" / "data.md").read_text()
    (section,) = re.findall(r"## Conditioning and control words of a prompt\n(.*?)\n## ", page, re.DOTALL)
    (rows,) = re.findall(r"```json\n(.*?)```", section, re.DOTALL)
    (command,) = re.findall(r"```\n(srpo-ray train .*?)\n```", section)
    return rows, shlex.split(command)[2:]


def config_of(folder: Path) -> RunConfig:
    rows, (base, *settings) = example()
    assert f"data.prompts={FILE}" in settings
    (folder / FILE).write_text(rows)
    settings = [setting.replace(FILE, str(folder / FILE)) for setting in settings]
    return load_run([ROOT / base], [*TINY, f"run_root={folder}", *settings])


def test_example_has_the_words_that_the_page_says(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    check_inputs(config)
    texts = read_texts(config)
    words = texts.training.words_over(config.trained_words)
    assert words is not None
    assert [(each.positive, each.negative) for each in words] == [
        (("vivid",), ("muted",)),
        (("bright", "sunny"), ("dark",)),
        (("realistic",), ("cartoon", "flat")),
        (("realistic",), ("cartoon",)),
    ]
    assert texts.training.conditioning[0] == json.loads(example()[0].splitlines()[0])["conditioning"]
    assert texts.training.conditioning[1:] == texts.training.prompts[1:]


def first_update(folder: str) -> dict[str, Any]:
    """Metrics of the example's first update, and the change of its weights."""
    config = config_of(Path(folder))
    rewards = LocalRewards.load(config.rewards.models)
    trainer = build_trainer(config, RunFolder(Path(folder) / "run"), rewards, "cpu", None)
    before = {name: value.clone() for name, value in trainer.engine.weights().items()}
    metrics = trainer.update(0)
    change = max((value - before[name]).abs().max().item() for name, value in trainer.engine.weights().items())
    return {**metrics, "change": change}


def test_example_trains(tmp_path: Path) -> None:
    found = run_ranks(first_update, 1, tmp_path, str(tmp_path))
    assert torch.isfinite(torch.tensor(found["loss/denoise"]))
    assert found["change"] > 0
