"""`srpo-ray evaluate` and `sample` of a config without a run: against runs of the same config."""

import csv
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from PIL import Image

from srpo_ray.cli import main
from srpo_ray.config import RunConfig, apply, to_yaml
from srpo_ray.inference.export import export_run
from srpo_ray.launch.train import train
from srpo_ray.runs.folder import RunFolder, read_rows
from tests.conftest import SMALL_WORLD
from tests.helpers.inference.fixtures import TINY
from tests.helpers.training.trained_run import trained_run


def rows_of(folder: Path, model: str) -> list[dict[str, str]]:
    with (folder / "rows.csv").open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["model"] == model]


def assert_same_scores(found: list[dict[str, str]], expected: list[dict[str, str]]) -> None:
    assert [(row["prompt"], row["sample"]) for row in found] == [(row["prompt"], row["sample"]) for row in expected]
    metrics = [key for key in expected[0] if "/" in key]
    assert len(metrics) > 10
    for one, other in zip(found, expected, strict=True):
        assert [float(one[key]) for key in metrics] == pytest.approx([float(other[key]) for key in metrics], rel=1e-5)


@pytest.mark.usefixtures("ray_cluster")
def test_scores_of_a_config_are_those_of_its_run_at_update_0(tiny_run: RunConfig, tmp_path: Path) -> None:
    config = apply(tiny_run, {"name": "one", "training.num_updates": 1, "evaluation.samples_per_prompt": 2})
    (tmp_path / "one.yaml").write_text(to_yaml(config))
    folder = RunFolder(train(config).path)
    assert main(["evaluate", str(tmp_path / "one.yaml")]) == 0
    out = tmp_path / "runs" / "one_untrained" / "evaluation"
    means = {row["metric"]: row for row in json.loads((out / "evaluation.json").read_text())["means"]}
    (baseline,) = [row for row in read_rows(folder.evaluations) if row["update"] == 0]
    (scores,) = [row["scores"] for row in read_rows(folder.scores) if row["update"] == 0]
    assert set(means) >= {"evaluator/held_out", "reward/total", "truth/content_accuracy", "image/contrast"}
    for metric, row in means.items():
        assert row["mean"] == pytest.approx(baseline[metric], rel=2e-3, abs=2e-4), metric
        if metric in scores:
            # Sample by sample, each with all four prompts.
            prompts = np.reshape(scores[metric], (2, 4)).mean(axis=0)
            expected = 3.182446 * prompts.std(ddof=1) / 2
            assert row["half_width"] == pytest.approx(expected, rel=2e-2, abs=2e-4), metric


def test_means_images_and_categories_of_a_config_are_those_of_the_base_model_of_its_run(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run_dir), "--out", str(tmp_path / "run")]) == 0
    config = [str(SMALL_WORLD), f"run_root={tmp_path / 'runs'}", *TINY]
    assert main(["evaluate", *config, "--out", str(tmp_path / "config")]) == 0
    assert_same_scores(rows_of(tmp_path / "config", "base"), rows_of(tmp_path / "run", "base"))
    run, alone = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("run", "config"))
    assert alone["settings"]["models"] == {
        "base": {"model": "small_world", "rl_guidance": 0.0, "weights": "base model"},
    }
    expected = {row["metric"]: row["reference_mean"] for row in run["comparisons"]}
    assert {row["metric"]: row["mean"] for row in alone["means"]} == pytest.approx(expected, rel=1e-5)
    expected = {(row["metric"], row["category"]): row["reference_mean"] for row in run["categories"]}
    assert {(row["metric"], row["category"]): row["mean"] for row in alone["categories"]} == pytest.approx(expected)
    assert len(expected) > 3
    printed = capsys.readouterr().out
    assert "truth/geneval by category" in printed
    assert "Evaluation of base" in (tmp_path / "config" / "evaluation.html").read_text()
    for name in ("random", "highest", "lowest"):
        assert (tmp_path / "config" / f"{name}.png").exists()


def lora_source(tmp_path: Path, mode: str) -> tuple[Path, list[str]]:
    """A run that trained adapters, and the words of a config that starts from its export."""
    adapters = ("model.lora.rank=2", "training.optimizer.lr=1e-4")
    trained_run(tmp_path / "runs" / "lora", f"run_root={tmp_path / 'runs'}", *TINY, *adapters)
    export_run(tmp_path / "runs" / "lora", tmp_path / "export")
    start = [f"model.lora.start_from={tmp_path / 'export'}", f"model.lora.start_mode={mode}"]
    config = [str(SMALL_WORLD), "name=again", f"run_root={tmp_path / 'runs'}", *TINY, *adapters, *start]
    return tmp_path / "runs" / "lora", config


@pytest.mark.parametrize("mode", ["continue", "merge"])
def test_lora_of_a_config_is_evaluated_as_the_run_that_trained_it(tmp_path: Path, mode: str) -> None:
    run, config = lora_source(tmp_path, mode)
    assert main(["evaluate", str(run), "--out", str(tmp_path / "run")]) == 0
    assert main(["evaluate", *config, "--out", str(tmp_path / "config")]) == 0
    own = "tuned" if mode == "continue" else "base"
    expected = rows_of(tmp_path / "run", "tuned")
    found = rows_of(tmp_path / "config", own)
    assert len(found) == len(expected)
    for key in ("evaluator/held_out", "reward/total", "image/contrast"):
        values = [float(row[key]) for row in found]
        assert values == pytest.approx([float(row[key]) for row in expected], rel=1e-3, abs=1e-4)
    data: dict[str, Any] = json.loads((tmp_path / "config" / "evaluation.json").read_text())
    assert data["settings"]["models"][own]["lora"] == str(tmp_path / "export")
    assert ("comparisons" in data) == (mode == "continue"), "a merged LoRA is a part of the base model"
    other = rows_of(tmp_path / "run", "base")
    assert fmean(float(row["image/contrast"]) for row in other) != pytest.approx(
        fmean(float(row["image/contrast"]) for row in found), rel=1e-3
    )


def test_config_is_compared_with_the_tuned_model_of_a_run(run_dir: Path, tmp_path: Path) -> None:
    config = [str(SMALL_WORLD), f"run_root={tmp_path / 'runs'}", *TINY]
    words = ["--num-prompts", "2", "--samples-per-prompt", "1", "--out", str(tmp_path / "out")]
    assert main(["evaluate", *config, "--against", str(run_dir), *words]) == 0
    assert main(["evaluate", str(run_dir), *words[:-1], str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["reference"] == "mine"
    for own, name in (("base", "base"), ("mine", "tuned")):
        assert_same_scores(rows_of(tmp_path / "out", own), rows_of(tmp_path / "run", name))


def test_images_of_a_config_are_those_of_the_base_model_of_its_run(run_dir: Path, tmp_path: Path) -> None:
    config = [str(SMALL_WORLD), f"run_root={tmp_path / 'runs'}", *TINY]
    prompts = ["a red circle", "a cat = an animal"]
    for name, source, guidance in (("run", [str(run_dir)], ["--rl-guidance", "0"]), ("config", config, [])):
        assert main(["sample", *source, *prompts, "--steps", "2", "--out", str(tmp_path / name), *guidance]) == 0
    for prompt in range(2):
        images = [tmp_path / name / "images" / f"{prompt:05d}_0_base.png" for name in ("run", "config")]
        first, second = (np.asarray(Image.open(image)) for image in images)
        assert np.array_equal(first, second)
    assert main(["sample", *config, prompts[0], "--steps", "2"]) == 0
    assert (tmp_path / "runs" / "small_world_untrained" / "samples.png").exists()


def bad_inputs(run_dir: Path, root: Path) -> dict[str, tuple[list[str], str]]:
    config = [str(SMALL_WORLD), f"run_root={root / 'runs'}", *TINY]
    evaluate, sample = ["evaluate", *config], ["sample", *config, "a cat"]
    return {
        "neither run nor config": (
            ["evaluate", str(root / "none")],
            "expected the folder of a trained run, or a config",
        ),
        "run with overrides": (["evaluate", str(run_dir), "seed=1"], "expected the folder of one run alone, or config"),
        "unknown key": ([*evaluate, "evaluation.num_stepz=3"], "evaluation.num_stepz"),
        "no model": ([*evaluate, f"model.path={root / 'none'}"], "model.path"),
        "guidance without a tuned model": (
            [*evaluate, "--rl-guidance", "2"],
            "--rl-guidance: expected the folder of a",
        ),
        "guidance of samples": ([*sample, "--rl-guidance", "1"], "which has no tuned model; name a run"),
        "contrast without a tuned model": (
            [*evaluate, "--contrast-with", str(run_dir)],
            "--contrast-with: expected the folder of a run, or a config",
        ),
        "no prompt": (["sample", *config], "got no prompt; give prompts in quotes"),
        "no size": ([*evaluate, "evaluation.resolution=72", "evaluation.prompts=p.txt"], "evaluation.resolution: "),
        "no lora": (
            [*evaluate, "model.lora.rank=2", f"model.lora.start_from={root / 'none.safetensors'}"],
            "model.lora.start_from: expected",
        ),
    }


CASES = [
    "neither run nor config",
    "run with overrides",
    "unknown key",
    "no model",
    "guidance without a tuned model",
    "guidance of samples",
    "contrast without a tuned model",
    "no prompt",
    "no size",
    "no lora",
]


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_message_and_exit_code_2(
    case: str, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, message = bad_inputs(run_dir, tmp_path)[case]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("srpo-ray: ")
    assert message in error
    assert "Traceback" not in error
