"""The report of a comparison: tables, files and charts of results that are worked out by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from srpo_ray.evaluation.comparison import Arm, StudyReport, common_targets, study_metrics
from srpo_ray.evaluation.gallery import method_grid, save_png
from srpo_ray.reports.comparison import comparison_report
from srpo_ray.reports.comparison_charts import cost_chart, reward_chart
from srpo_ray.reports.comparison_tables import passage_text
from srpo_ray.reports.files import csv_text, write_report
from srpo_ray.reports.html import page_text
from tests.evaluation.test_comparison import HELD_OUT, run


def test_costs_are_compared_at_the_same_scores_for_all_methods(report: StudyReport) -> None:
    """SRPO's gain of 0.2 from 0.5; evaluations at 100 and 200 calls."""
    assert common_targets(report) == pytest.approx([0.55, 0.6, 0.65, 0.7])
    srpo, refl = report.arm("SRPO"), report.arm("ReFL")
    # Reached before the first evaluation at 100 calls: no number. Between 100 and 200 calls by proportion.
    assert passage_text(report, srpo, 0.55) == "< 100"
    assert passage_text(report, srpo, 0.65) == "151 ± 10"
    assert passage_text(report, refl, 0.55) == "100 ± 0"
    assert passage_text(report, refl, 0.6) == "200 ± 0"
    assert passage_text(report, refl, 0.65) == "> 200"


def test_run_that_broke_is_in_no_figure(report: StudyReport) -> None:
    broken = run("SRPO_seed_4", 4, [0.5, 9.0], status="failed: out of memory")
    srpo = replace(report.arm("SRPO"), rows=[*report.arm("SRPO").rows, broken])
    assert srpo.over_seeds(HELD_OUT) == report.arm("SRPO").over_seeds(HELD_OUT)
    with_broken = replace(report, arms=[srpo if arm.name == "SRPO" else arm for arm in report.arms])
    assert cost_chart(with_broken, HELD_OUT) == cost_chart(report, HELD_OUT)
    assert reward_chart(with_broken) == reward_chart(report) is not None


def test_null_that_an_ablation_sets_is_shown(report: StudyReport, tmp_path: Path) -> None:
    without = Arm("no discount", "ablation", {"algorithm.denoise_discount": None}, report.ablations[0].rows)
    page = page_text(comparison_report(replace(report, arms=[*report.arms, without]), None))
    assert "algorithm.denoise_discount = null" in page


def test_headline_leaves_out_what_was_trained_for_longer(report: StudyReport, tmp_path: Path) -> None:
    longer = Arm("longer", "method", {}, [run("longer_seed_1", 1, [0.5, 0.9, 0.95], calls=400.0)])
    page = page_text(comparison_report(replace(report, arms=[*report.arms, longer]), None))
    assert "SRPO ends best at equal compute" in page


def test_tables_and_files_hold_every_arm(report: StudyReport, tmp_path: Path) -> None:
    made = comparison_report(report, None)
    lines = csv_text(made.files["table.csv"]).splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["untrained", "ReFL", "SRPO", "harm", "noise"]
    heads = lines[0].split(",")
    srpo = dict(zip(heads, lines[3].split(","), strict=True))
    assert float(srpo[f"{HELD_OUT} mean"]) == pytest.approx(0.7)
    assert float(srpo["cost/calls mean"]) == 200.0
    assert float(srpo["calls to target"]) == pytest.approx(100.0)
    assert float(srpo["seconds to target"]) == pytest.approx(2.0)
    assert [len(table.rows) for table in made.terminal] == [3, 2]
    assert study_metrics(report)[0] == HELD_OUT

    images = torch.rand(2, 3, 16, 16)
    grid = method_grid({"untrained": images, "SRPO": images}, ["a red circle", "a blue square"])
    made = comparison_report(report, save_png(grid, tmp_path / "methods.png"))
    page = write_report(tmp_path, made).read_text()
    assert all(arm.name in page for arm in report.arms)
    assert "data:image/png;base64," in page
    assert "SRPO ends best at equal compute" in page
    assert "a note" in page
    assert "-0.1033" in page
    assert "&gt; 200" not in page.partition("What a score costs")[0]
    assert (tmp_path / "study.json").exists()
