"""Whole sweeps with a budget: one that ends early, and one that is too small."""

import json
from pathlib import Path

import pytest

from srpo_ray.cli import main
from srpo_ray.runs.folder import RunFolder
from tests.conftest import ROOT
from tests.integration.search.test_sweep_run import TINY

SWEEP = ROOT / "configs" / "experiments" / "small_world_sweep.yaml"
LONG = ["training.num_updates=40", "experiment.search.num_samples=3"]


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_search_that_has_spent_its_part_ends_with_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    many = ["experiment.search.num_samples=200", "experiment.search.scheduler.type=none"]
    assert main(["sweep", str(SWEEP), *TINY, *many, "experiment.budget={hours: 0.03}"]) == 0
    folder = Path("runs") / "small_world_sweep"
    results = json.loads((folder / "results.json").read_text())
    (search,) = results["searches"]
    assert 0 < len(search["rows"]) < 200
    assert any(note.startswith("The budget had no room for") for note in results["notes"])
    (use,) = results["budget"]
    assert use["name"] == "hours"
    assert 0 < use["search"] <= use["limit"] * 1.5
    trained = {path.parent.name for path in folder.glob("trials/*/usage.json")}
    assert {row["name"] for row in search["rows"]} <= trained
    assert (folder / "report.html").exists()


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_budget_below_one_trial_is_refused_after_the_first_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [*TINY, *LONG, "experiment.budget={hours: 0.0005}"]
    assert main(["sweep", str(SWEEP), *arguments]) == 2
    assert "budget" in capsys.readouterr().err
    assert not list((tmp_path / "runs").glob("small_world_sweep/trials/*/finished.json"))
    assert RunFolder(tmp_path / "runs" / "small_world_sweep").path.exists()
