"""Section on the budget of an experiment."""

from dataclasses import replace

from srpo_ray.evaluation.results import BudgetUse, Results
from srpo_ray.reports.budget import budget_section, budget_table
from srpo_ray.reports.experiment import experiment_report

USES = [BudgetUse("gpu_hours", 10.0, 6.0, 3.0), BudgetUse("money", 20.0, 15.0, 7.5)]


def test_budget_of_a_report_has_what_is_spent_and_left(report: Results) -> None:
    table = budget_table(USES)
    assert [dict(row.cells) for row in table.rows] == [
        {"limit": "GPU-hours", "budget": 10.0, "search": 6.0, "final": 3.0, "left": 1.0},
        {"limit": "money", "budget": 20.0, "search": 15.0, "final": 7.5, "left": 0.0},
    ]
    assert "Budget" in [section.title for section in experiment_report(replace(report, budget=USES)).sections]


def test_report_without_a_budget_has_no_such_section(report: Results) -> None:
    assert budget_section(report) is None
    assert "Budget" not in [section.title for section in experiment_report(report).sections]
