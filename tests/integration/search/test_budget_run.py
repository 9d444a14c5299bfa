"""Whole sweeps with a budget: one that ends early, and one that is too small."""

import json
from pathlib import Path

import pytest

from srpo_ray.cli import main
from srpo_ray.runs.folder import RunFolder, read_rows
from tests.conftest import ROOT
from tests.integration.search.test_search_in_parts import PROMOTION, RUN, write, written
from tests.integration.search.test_sweep_run import TINY

SWEEP = ROOT / "configs" / "experiments" / "small_world_sweep.yaml"
LONG = ["training.num_updates=40", "experiment.search.num_samples=3"]
# The budgets are hours of the wall clock, so the tests take as long on any machine, and longer on a busy one.
pytestmark = pytest.mark.timeout(1500)


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


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_promotion_that_a_budget_has_ended_goes_on_when_the_budget_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "promotion", 200, PROMOTION)
    folder = tmp_path / "runs" / "promotion"
    assert main(["sweep", "promotion.yaml", *RUN, "experiment.budget={hours: 0.06}"]) == 0
    first = json.loads((folder / "results.json").read_text())
    (search,) = first["searches"]
    below, last = search["rungs"]
    assert 0 < below["trials"] < 200
    assert 0 < last["trials"] == below["promoted"] <= max(1, below["trials"] // 2)
    # A promoted run costs its own updates only.
    assert last["made"] == 2 * last["trials"]
    assert any(note.startswith("The budget had no room for") for note in first["notes"])
    assert [row["status"] for row in first["arms"][0]["rows"]] == ["finished"]
    (use,) = first["budget"]
    assert use["search"] + use["final"] < 1.3 * use["limit"]
    before = written(folder)

    assert main(["sweep", "promotion.yaml", *RUN, "experiment.budget={hours: 0.14}"]) == 0
    second = json.loads((folder / "results.json").read_text())
    assert second["searches"][0]["rungs"][0]["trials"] > below["trials"]
    after = written(folder)
    assert {path: after[path] for path in before} == before, "no finished run is trained again"
    assert second["budget"][0]["limit"] == 0.14
    assert use["search"] + use["final"] < second["budget"][0]["search"] + second["budget"][0]["final"] < 1.3 * 0.14
    for path in folder.glob("trials/*_rung_2/updates.jsonl"):
        assert [row["update"] for row in read_rows(path)] in ([1, 2, 3, 4], [1, 2, 3])
