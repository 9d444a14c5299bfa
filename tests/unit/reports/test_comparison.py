"""The report of a comparison: tables, files and charts of results that are worked out by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from srpo_ray.evaluation.comparison import arm_metrics
from srpo_ray.evaluation.gallery import method_grid, save_png
from srpo_ray.evaluation.results import Arm, Results
from srpo_ray.reports.comparison_charts import cost_chart, reward_chart
from srpo_ray.reports.experiment import experiment_report
from srpo_ray.reports.files import csv_text, write_report
from srpo_ray.reports.html import page_text
from srpo_ray.reports.report import Table
from tests.unit.evaluation.test_comparison import HELD_OUT, by_prompt, run


def test_costs_of_the_same_scores_have_intervals_and_ratios_for_all_methods(report: Results) -> None:
    """SRPO's gain of 0.2 from 0.5; evaluations at 100 and 200 calls."""
    costs = next(section for section in experiment_report(report).sections if section.title == "What a score costs")
    (table,) = [part for part in costs.parts if isinstance(part, Table)]
    assert [column.heading for column in table.columns] == [
        "method", "to 0.5500", "to 0.6000", "to 0.6500", "to 0.6800"
    ]  # fmt: skip
    refl, srpo = ([row.cell(f"to {index}") for index in range(4)] for row in table.rows)
    # Reached before the first evaluation at 100 calls; between 100 and 200 calls by proportion: 150, 141.7 and 162.5.
    assert [cell.value for cell in srpo] == ["< 100", "100 ± 0", "151 ± 26", "182 ± 42"]
    assert [cell.value for cell in refl] == ["100 ± 0", "200 ± 0", "> 200", "> 200"]
    # The interval of SRPO's gain is +- 0.0497, so only the first score could be noise.
    assert [cell.note for cell in refl] == ["> 1.00 times", "2.00 times (2.00-2.00)", "> 1.32 times", "> 1.10 times"]
    assert {cell.note for cell in srpo} == {""}


def test_a_score_within_the_uncertainty_of_the_baseline_has_no_ratio(report: Results) -> None:
    """SRPO's gain of 0.04 has an interval of +- 0.025; a quarter of it is 0.01, three quarters are 0.03."""
    srpo = replace(
        report.arm("SRPO"),
        rows=[run(f"SRPO_{seed}", seed, [0.5, 0.5, 0.53 + 0.01 * seed - 0.01]) for seed in (1, 2, 3)],
    )
    refl = replace(report.arm("ReFL"), rows=[run(f"ReFL_{seed}", seed, [0.5, 0.505, 0.6]) for seed in (1, 2, 3)])
    costs = next(
        section
        for section in experiment_report(replace(report, arms=[refl, srpo])).sections
        if section.title == "What a score costs"
    )
    (table,) = [part for part in costs.parts if isinstance(part, Table)]
    assert [bool(table.rows[0].cell(f"to {index}").note) for index in range(4)] == [False, False, True, True]
    assert "0.5100, 0.5200: no ratio" in str(costs.parts[-2])


def scored_by_prompt(report: Results, source: str = "test") -> Results:
    """Every method gains 0.1 to 0.3 on 32 prompts, ReFL 0.05 less; seeds differ by 0.001."""
    gains = np.linspace(0.1, 0.3, 32)
    less = {"SRPO": 0.0, "ReFL": 0.05, "harm": 0.1, "noise": 0.0}
    arms = [
        replace(arm, rows=[by_prompt(row, gains - less[arm.name] + 0.001 * row.seed, source) for row in arm.rows])
        for arm in report.arms
    ]
    return replace(report, arms=arms)


def test_methods_have_gains_with_intervals_over_seeds_and_prompts_and_the_spread_over_seeds_apart(
    report: Results,
) -> None:
    made = experiment_report(scored_by_prompt(report))
    (table,) = [part for part in made.sections[0].parts if isinstance(part, Table)]
    srpo = next(row for row in table.rows if row.cell("arm").value == "SRPO")
    # Standard deviation over prompts 0.0605, 31 degrees of freedom: 2.040 x 0.0605 / sqrt(32) = 0.0218.
    assert srpo.cell(f"{HELD_OUT} mean").note == "+0.2020 ± 0.0218"
    assert srpo.cell(f"{HELD_OUT} gain 95%").value == pytest.approx(0.0218, abs=1e-4)
    assert srpo.cell("spread").value == pytest.approx(0.001)
    assert next(column.heading for column in table.columns if column.key == "spread") == "sd over seeds"
    assert table.rows[0].cell(f"{HELD_OUT} mean").value == pytest.approx(0.5)
    note = str(made.sections[0].parts[-1])
    assert "Scores are on 32 test prompts, which chose no setting." in note
    assert "it counts training seeds and prompts together" in note
    assert "The table makes 1 test:" in note
    assert "it counts training seeds only" in str(experiment_report(report).sections[0].parts[-1])


def test_headline_has_the_interval_of_the_gain_and_names_arms_that_it_does_not_tell_apart(report: Results) -> None:
    scored = scored_by_prompt(report, "validation")
    assert experiment_report(scored).headline.startswith(
        "SRPO ends best at equal compute: evaluator/held_out 0.5000 → 0.7020 (+0.2020 ± 0.0218)"
    )
    srpo = scored.arm("SRPO")
    rows = [by_prompt(row, np.linspace(0.1, 0.3, 32) * (-1) ** row.seed * 0.99) for row in report.arm("noise").rows]
    like = Arm("like", "method", {}, rows)
    unsure = replace(scored, arms=[srpo, like])
    assert experiment_report(unsure).headline.split(" The same")[0].endswith("; its difference from like may be zero")


def test_run_that_broke_is_in_no_figure(report: Results) -> None:
    broken = run("SRPO_seed_4", 4, [0.5, 9.0], status="failed: out of memory")
    srpo = replace(report.arm("SRPO"), rows=[*report.arm("SRPO").rows, broken])
    assert srpo.over_seeds(HELD_OUT) == report.arm("SRPO").over_seeds(HELD_OUT)
    with_broken = replace(report, arms=[srpo if arm.name == "SRPO" else arm for arm in report.arms])
    assert cost_chart(with_broken, HELD_OUT) == cost_chart(report, HELD_OUT)
    assert reward_chart(with_broken) == reward_chart(report) is not None


def test_null_that_an_ablation_sets_is_shown(report: Results, tmp_path: Path) -> None:
    without = Arm("no discount", "ablation", {"algorithm.denoise_discount": None}, report.ablations[0].rows)
    page = page_text(experiment_report(replace(report, arms=[*report.arms, without]), None))
    assert "algorithm.denoise_discount = null" in page


def test_headline_leaves_out_what_was_trained_for_longer(report: Results, tmp_path: Path) -> None:
    longer = Arm("longer", "method", {}, [run("longer_seed_1", 1, [0.5, 0.9, 0.95], calls=400.0)])
    page = page_text(experiment_report(replace(report, arms=[*report.arms, longer]), None))
    assert "SRPO ends best at equal compute" in page


def test_tables_and_files_hold_every_arm(report: Results, tmp_path: Path) -> None:
    made = experiment_report(report, None)
    lines = csv_text(made.files["arms.csv"]).splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["baseline", "ReFL", "SRPO", "harm", "noise"]
    heads = lines[0].split(",")
    srpo = dict(zip(heads, lines[3].split(","), strict=True))
    assert float(srpo[f"{HELD_OUT} mean"]) == pytest.approx(0.7)
    assert float(srpo["cost/calls mean"]) == 200.0
    assert float(srpo["calls to target"]) == pytest.approx(100.0)
    assert float(srpo["seconds to target"]) == pytest.approx(2.0)
    assert [len(table.rows) for table in made.terminal] == [3, 2]
    assert arm_metrics(report)[0] == HELD_OUT

    images = torch.rand(2, 3, 16, 16)
    grid = method_grid({"baseline": images, "SRPO": images}, ["a red circle", "a blue square"])
    made = experiment_report(report, save_png(grid, tmp_path / "arms.png"))
    page = write_report(tmp_path, made).read_text()
    assert all(arm.name in page for arm in report.arms)
    assert "data:image/png;base64," in page
    assert "SRPO ends best at equal compute" in page
    assert "a note" in page
    assert "-0.1033" in page
    assert "&gt; 200" not in page.partition("What a score costs")[0]
    assert (tmp_path / "results.json").exists()


def test_comparison_shows_the_trials_that_were_drawn_for_an_arm_and_all_runs(report: Results, sweep: Results) -> None:
    """A grid is one line of values; a space has charts of its own."""
    drawn = replace(
        report,
        searches=[replace(report.searches[0], drawn=False), replace(sweep.searches[0], arm="ReFL")],
        reward=sweep.reward,
    )
    titles = [section.title for section in experiment_report(drawn, None).sections]
    assert titles == [
        *("Methods", "Trained reward against held-out score", "What a score costs", "Side effects at equal gain"),
        *(
            "Ablations of SRPO",
            "How values were chosen",
            "ReFL: trained reward against held-out score",
            "ReFL: over updates",
        ),
        *("ReFL: which parameter mattered", "ReFL: parameter by parameter"),
        *("All runs", "What the metrics mean", "Run it again"),
    ]
    assert sorted(row.cell("name").value for row in experiment_report(drawn, None).files["runs.csv"].rows) == sorted(
        row.name for row in drawn.rows
    )


def test_ablations_of_a_sweep_with_several_seeds_are_compared_seed_by_seed(report: Results) -> None:
    srpo = report.arm("SRPO")
    sweep = replace(report, arms=[srpo, *report.ablations])
    made = experiment_report(sweep)
    assert "Ablations of SRPO" in [section.title for section in made.sections]
    assert ["difference" in table.title for table in made.terminal] == [False, True]
    once = replace(sweep, arms=[srpo, *(replace(arm, rows=arm.rows[:1]) for arm in report.ablations)])
    assert "Ablations of the best" in [section.title for section in experiment_report(once).sections]
