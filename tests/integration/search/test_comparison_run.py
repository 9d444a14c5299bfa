"""A whole small comparison of methods."""

import csv
import json
from pathlib import Path

import pytest

from srpo_ray.cli import main
from srpo_ray.config import load_run
from srpo_ray.evaluation.numbers import param_text
from srpo_ray.runs.folder import RunFolder, read_rows
from tests.conftest import SMALL_WORLD
from tests.integration.search.test_sweep_run import TINY

LR = "training.optimizer.lr"
UNBIASED = {"name": "preference", "type": "open_clip", "path": "small_world:preference_unbiased"}
"""Another model under the name of the base config's."""


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_comparison_searches_trains_and_reports_and_repeats_nothing_when_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "comparison.yaml").write_text(
        json.dumps(
            {
                "name": "methods",
                "base": str(SMALL_WORLD),
                "seeds": [1, 2],
                "arms": [
                    {"name": "SRPO", "grid": {LR: [2.0e-6, 1.0e-5]}, "widen": 1},
                    {"name": "plain", "set": {"algorithm": {"type": "direct_align", "hinge": 2.0}}},
                    {"name": "other reward", "seeds": [1], "set": {"rewards.models": [UNBIASED]}},
                ],
                "ablations": [{"name": "late", "set": {"algorithm.timestep_window": [30, 45]}, "seeds": [1]}],
            }
        )
    )
    tiny = [argument for argument in TINY if not argument.startswith("experiment.")]
    assert main(["compare", "comparison.yaml", *tiny]) == 0
    folder = Path("runs") / "methods"
    printed = capsys.readouterr().out
    assert "ablations of SRPO" in printed
    assert str(folder / "report.html") in printed
    with (folder / "arms.csv").open() as file:
        rows = {row["arm"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["baseline", "SRPO", "plain", "other reward", "late"]
    # 4 updates of 2 prompts: 2 rollout steps and 2 branches, or one
    assert float(rows["SRPO"]["cost/calls mean"]) == 4 * 2 * (2 + 2 * 3)
    assert float(rows["plain"]["cost/calls mean"]) == 4 * 2 * (2 + 3)
    assert (folder / "images" / "arms.png").exists()
    scores = [
        read_rows(RunFolder(folder / "trials" / name).evaluations)[0] for name in ("SRPO_seed_1", "other_reward_seed_1")
    ]
    assert scores[0]["evaluator/held_out"] == scores[1]["evaluator/held_out"]
    assert scores[0]["reward/preference"] != pytest.approx(scores[1]["reward/preference"], abs=1e-3)

    best = load_run([folder / "best.yaml"])
    assert best.name == "methods_best"
    # The best of two values is at an end, so one is added there.
    assert best.training.optimizer.lr in (4.0e-7, 2.0e-6, 1.0e-5, 5.0e-5)
    added = load_run([folder / "trials" / "SRPO_trial_2" / "config.yaml"]).training.optimizer.lr
    assert f"added: {param_text(added)}" in (folder / "report.html").read_text()
    assert added in (4.0e-7, 5.0e-5)

    trained = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/updates.jsonl")}
    assert len(trained) == 9
    table = (folder / "arms.csv").read_text()
    assert main(["compare", "--resume", str(folder)]) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/updates.jsonl")} == trained
    assert (folder / "arms.csv").read_text() == table
