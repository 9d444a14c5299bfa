"""Sweep files of `configs/sweep` from the search to the report, with two short trials of a small model."""

import json
from pathlib import Path

import pytest

from srpo_ray.cli import main
from srpo_ray.config import load_run
from tests.conftest import ROOT
from tests.helpers.models.tiny_sd3 import save_tiny_sd3
from tests.helpers.small_world_sweep import small_world_sweep

JUDGED = {"evaluator/pickscore", "evaluator/image_reward", "evaluator/clip_l14", "image/diversity"}


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("name", ["flux_lora", "sd35_medium_lora"])
def test_sweep_file_trains_what_it_searches_and_measures_what_it_chooses_by(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = ROOT / "configs" / "sweep" / f"{name}.yaml"
    of_family = [f"model.path={save_tiny_sd3(tmp_path / 'sd3')}"] if name == "sd35_medium_lora" else []
    assert main(["sweep", str(sweep), *small_world_sweep(), *of_family]) == 0
    folder = tmp_path / "runs" / name
    results = json.loads((folder / "results.json").read_text())
    (search,) = results["searches"]
    assert len(search["rows"]) == 2
    for row in search["rows"]:
        trained = load_run([folder / "trials" / row["name"] / "config.yaml"])
        assert row["params"]["algorithm.control_words"] == trained.algorithm.model_dump()["control_words"]
        assert row["params"]["rollout.reuse"] == trained.rollout.reuse
        assert row["params"]["training.optimizer.lr"] == trained.training.optimizer.lr
        first, *_, last = row["history"]
        assert set(last) >= JUDGED
        assert last["evaluator/pickscore"] != first["evaluator/pickscore"]
    assert "evaluator/pickscore" in (folder / "report.html").read_text()
