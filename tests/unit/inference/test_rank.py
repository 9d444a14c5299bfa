"""Pair files of a model's own images: against the rewards of the written images."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from srpo_ray.cli import main
from srpo_ray.config import load_run
from srpo_ray.data.pairs import load_judged
from srpo_ray.data.prompts import load_prompts
from srpo_ray.evaluation.gallery import read_images
from srpo_ray.inference.sampler import Sampler
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.rewards.query import TextQuery
from tests.conftest import SMALL_WORLD

SMALL = ["--num-prompts", "3", "--samples-per-prompt", "4", "--steps", "2", "--batch-size", "4"]


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]


def make(tmp_path: Path, *words: str, name: str = "out") -> int:
    source = [str(SMALL_WORLD), f"run_root={tmp_path / 'runs'}"]
    return main(["rank", *source, *SMALL, "--out", str(tmp_path / name), *words])


def test_pairs_are_the_best_and_the_worst_image_of_each_prompt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(tmp_path) == 0
    assert "3 pairs of 3 prompts; 0 without two images" in capsys.readouterr().out
    config = load_run([SMALL_WORLD])
    rewards = LocalRewards.load(config.rewards.models, (), factors=config.rewards.factors, official=True)
    pairs = read(tmp_path / "out")
    assert [pair["prompt"] for pair in pairs] == load_prompts("small_world:train", "data.prompts")[:3]
    for index, pair in enumerate(pairs):
        files = [tmp_path / "out" / "images" / f"{index:05d}_{sample}_base.png" for sample in range(4)]
        scores = rewards.measure(read_images(files, 64), [TextQuery.plain(pair["prompt"])] * 4)
        totals = torch.stack([weight * scores[name] for name, weight in config.rewards.factors.items()]).sum(0)
        found = [tmp_path / "out" / pair[key] for key in ("preferred", "other")]
        assert [files.index(file) for file in found] == [int(totals.argmax()), int(totals.argmin())]
        # Files have 8 bits per channel.
        expected = {name: [float(scores[name][files.index(file)]) for file in found] for name in scores}
        assert {name: pytest.approx(values, abs=5e-3) for name, values in pair["scores"].items()} == expected
    judged = load_judged(str(tmp_path / "out" / "pairs.jsonl"), "pairs")
    assert judged.captions == [pair["prompt"] for pair in pairs]
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert not any(name.startswith("evaluator/") for name in rows[0]), "held-out models choose nothing"


def test_other_rule_or_gap_samples_no_image_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, draw = [], Sampler.draw
    monkeypatch.setattr(Sampler, "draw", lambda self, chunk: (drawn.append(chunk), draw(self, chunk))[1])
    assert make(tmp_path, "--select", "dominance") == 0
    count = len(drawn)
    dominated = read(tmp_path / "out")
    for pair in dominated:
        assert all(preferred >= other for preferred, other in pair["scores"].values())
    assert make(tmp_path, "--min-gap", "0.03") == 0
    assert len(drawn) == count
    weights = load_run([SMALL_WORLD]).rewards.factors
    for pair in read(tmp_path / "out"):
        gap = sum(weights[name] * (preferred - other) for name, (preferred, other) in pair["scores"].items())
        assert gap >= 0.03
    assert make(tmp_path, "--temperature", "0.1") == 0
    assert len(drawn) == count
    for pair in read(tmp_path / "out"):
        gap = sum(weights[name] * (preferred - other) for name, (preferred, other) in pair["scores"].items())
        assert pair["confidence"] == pytest.approx(math.tanh(gap / 0.2))


def test_run_samples_with_its_tuned_model_and_a_weight_of_0_with_the_base_model(run_dir: Path, tmp_path: Path) -> None:
    words = ["rank", str(run_dir), *SMALL, "--out"]
    assert main([*words, str(tmp_path / "tuned")]) == 0
    assert main([*words, str(tmp_path / "zero"), "--rl-guidance", "0"]) == 0
    assert make(tmp_path) == 0
    tuned, zero, base = (read(tmp_path / name) for name in ("tuned", "zero", "out"))
    assert [pair["scores"] for pair in zero] == [pair["scores"] for pair in base]
    assert [pair["scores"] for pair in tuned] != [pair["scores"] for pair in base]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--min-gap", "100"],
            "expected images of a prompt that best_worst tells apart by at least 100, got none",
        ),
        (["--min-gap", "-1"], "--min-gap: expected a number of at least 0"),
        (["--select", "vote", "--min-gap", "0.1"], "expected no --min-gap with --select=vote, got 0.1"),
        (["--samples-per-prompt", "1"], "--samples-per-prompt: expected a number of at least 2, got 1"),
        (["--rl-guidance", "2"], "--rl-guidance: expected the folder of a run, or a config whose"),
        (["--prompts", "missing.txt"], "--prompts"),
    ],
)
def test_options_that_make_no_pair_are_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(tmp_path, *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "pairs.jsonl").exists()
