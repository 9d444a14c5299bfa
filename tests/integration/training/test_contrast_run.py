"""Runs that evaluate with the contrast of their tuned with another model: against `srpo-ray evaluate` afterwards."""

import json
from pathlib import Path
from statistics import fmean

import pytest

from srpo_ray.config import RunConfig, apply
from srpo_ray.inference.evaluate import evaluate_run
from srpo_ray.inference.job import SamplingOptions, open_run
from srpo_ray.launch.train import train
from srpo_ray.models.contrast import ContrastWeight
from srpo_ray.runs.folder import read_rows
from tests.helpers.training.trained_run import trained_run

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_trained_weights_are_evaluated_with_the_contrast_and_the_baseline_without(
    tiny_run: RunConfig, tmp_path: Path
) -> None:
    config = apply(
        tiny_run,
        {
            "name": "contrasted",
            "model.lora": {"rank": 4},
            "training.num_updates": 2,
            "training.optimizer.lr": 1e-2,
            "rewards.in_process": True,
            "evaluation.rl_guidance": 3,
            "evaluation.contrast_text": 0.5,
            "evaluation.test": {"num_prompts": 2, "samples_per_prompt": 1},
        },
    )
    folder = train(config)
    baseline, trained = read_rows(folder.evaluations)
    weight = ContrastWeight.constant(3.0)
    name = "rl_guidance_3_text_0.5"
    evaluate_run(
        open_run(folder.path), tmp_path / "out", options=SamplingOptions(), rl_guidance=[weight], contrast_text=0.5
    )
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    for metric in ("evaluator/held_out", "truth/saturation"):
        means = {
            model: fmean(row[metric] for row in rows if row["model"] == model) for model in ("base", "tuned", name)
        }
        assert baseline[metric] == pytest.approx(means["base"], rel=1e-4)
        assert trained[metric] == pytest.approx(means[name], rel=1e-4)
        assert abs(means[name] - means["tuned"]) > 1e-3 * abs(means["tuned"])
    tested = read_rows(folder.test_scores)
    evaluate_run(
        open_run(folder.path),
        tmp_path / "test",
        options=SamplingOptions(samples_per_prompt=1, seed=4321),
        prompts="small_world:test",
        num_prompts=2,
        rl_guidance=[weight],
        contrast_text=0.5,
    )
    rows = [json.loads(line) for line in (tmp_path / "test" / "rows.jsonl").read_text().splitlines()]
    for row, model in zip(tested, ("base", name), strict=True):
        expected = [each["evaluator/held_out"] for each in rows if each["model"] == model]
        assert row["scores"]["evaluator/held_out"] == pytest.approx(expected, rel=1e-4)


def test_evaluation_in_contrast_with_another_run_is_that_of_the_command(tiny_run: RunConfig, tmp_path: Path) -> None:
    other = tmp_path / "other"
    trained_run(other, f"run_root={tmp_path}", "model.lora={rank: 2, alpha: 5}", seed=1)
    (other / "finished.json").write_text("{}")
    config = apply(
        tiny_run,
        {
            "name": "contrasted_with",
            "model.lora": {"rank": 4, "alpha": 6},
            "training.num_updates": 2,
            "training.optimizer.lr": 1e-2,
            "training.ema.decay": 0.5,
            "rewards.in_process": True,
            "evaluation.rl_guidance": 1.5,
            "evaluation.contrast_with": str(other),
        },
    )
    folder = train(config)
    baseline, trained = read_rows(folder.evaluations)
    weight, name = ContrastWeight.constant(1.5), "contrast_1.5"
    evaluate_run(
        open_run(folder.path),
        tmp_path / "out",
        options=SamplingOptions(),
        rl_guidance=[weight],
        contrast_with=other,
    )
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    for metric in ("evaluator/held_out", "truth/saturation"):
        means = {
            model: fmean(row[metric] for row in rows if row["model"] == model) for model in ("base", "tuned", name)
        }
        assert baseline[metric] == pytest.approx(means["base"], rel=1e-4)
        assert trained[metric] == pytest.approx(means[name], rel=1e-4)
        assert abs(means[name] - means["tuned"]) > 1e-3 * abs(means["tuned"])
