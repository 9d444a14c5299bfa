"""A whole run with test prompts that keeps its best weights, and is interrupted while it tests them."""

import csv
import json
from pathlib import Path
from statistics import fmean

import pytest
from mlflow import MlflowClient

from srpo_ray.config import RunConfig, apply
from srpo_ray.errors import TrainingError
from srpo_ray.inference.evaluate import evaluate_run
from srpo_ray.inference.job import SamplingOptions, open_run
from srpo_ray.launch.train import train
from srpo_ray.runs.folder import RunFolder, read_rows

pytestmark = pytest.mark.usefixtures("ray_cluster")

DECISIONS = "0.5 0.7 0.3 nan"
"""Held-out scores of the baseline, of updates 2 and 4, and of the chosen weights, whose test fails."""


def test_interrupted_test_is_resumed_with_the_best_weights(tiny_run: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "final.txt").write_text("a green ring on a black background\na blue star on a white background\n")
    target = "tests.helpers.training.faulty_rewards"
    held_out = {
        "type": "python",
        "name": "judge",
        "target": f"{target}:Evaluate",
        "arguments": {"decisions": DECISIONS},
    }
    config = apply(
        tiny_run,
        {
            "name": "tested",
            "rewards.models": [{"type": "python", "name": "brightness", "target": f"{target}:Brightness"}],
            "rewards.in_process": True,
            "training.optimizer.lr": 1e-4,
            "training.checkpoints_kept": 1,
            "evaluation.held_out": [{**held_out, "arguments": {"decisions": DECISIONS}}],
            "evaluation.relative": None,
            "evaluation.choose": "best",
            "evaluation.test": {"prompts": str(tmp_path / "final.txt"), "samples_per_prompt": 3, "seed": 99},
        },
    )
    with pytest.raises(TrainingError, match="judge"):
        train(config)
    folder = RunFolder(Path(config.run_root).resolve() / "tested")
    assert not folder.test_scores.exists()
    assert not folder.finished.exists()
    assert [row["update"] for row in read_rows(folder.updates)] == [1, 2, 3, 4]

    assert train(config).path == folder.path
    assert json.loads(folder.finished.read_text()) == {"updates": 4, "evaluations": 3, "best_update": 2}
    base, tested = read_rows(folder.test_scores)
    assert (base["update"], tested["update"], base["num_prompts"]) == (0, 2, 2)
    assert {len(values) for row in (base, tested) for values in row["scores"].values()} == {6}
    assert [row["update"] for row in read_rows(folder.updates)] == [1, 2, 3, 4]

    client = MlflowClient(f"sqlite:///{Path(config.run_root) / 'mlflow.db'}")
    run_id = json.loads(folder.tracker_record.read_text())["run_id"]
    logged = {each.step: each.value for each in client.get_metric_history(run_id, "test/reward/brightness")}
    assert logged == {row["update"]: pytest.approx(fmean(row["scores"]["reward/brightness"])) for row in (base, tested)}

    # The same prompts and noise, sampled from the weights that stand for the finished run.
    options = SamplingOptions(samples_per_prompt=3, seed=99)
    evaluate_run(open_run(folder.path), tmp_path / "again", options=options, prompts=str(tmp_path / "final.txt"))
    with (tmp_path / "again" / "rows.csv").open() as file:
        images = list(csv.DictReader(file))
    for model, row in (("base", base), ("tuned", tested)):
        again = {
            int(each["sample"]) * 2 + int(each["prompt_index"]): float(each["reward/brightness"])
            for each in images
            if each["model"] == model
        }
        assert [again[item] for item in range(6)] == pytest.approx(row["scores"]["reward/brightness"], rel=1e-5)
    assert base["scores"]["reward/brightness"] != tested["scores"]["reward/brightness"]
